"""Pages that would otherwise be second copies: dials, settings and curation from conf/, sweeps from sweeps/, metrics from their objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mkdocs_gen_files

from lab import keys as keys_reference
from lab.config import RECIPE
from lab.curation.config import SCHEMA
from lab.statistics.metrics import KINDS, Kind

ROOT = Path(__file__).parents[1]
ASKS = {
    "model": "Which checkpoint.",
    "data": "Which questions.",
    "lora": "What may change.",
    "prompt": "How the question is put.",
    "vision_tokens": "How many tokens one image costs.",
    "conditioning": "Where the image enters the language model.",
}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def write(page: str, *parts: str) -> None:
    """A page of the site."""
    with mkdocs_gen_files.open(page, "w") as file:
        file.write("\n".join(parts))


def keys(named: Mapping[str, Any], option: str) -> str:
    """A row for each key that an option says something of: the comment in its YAML file, and what is legal."""
    rows = [(f"`{key}`", unwrapped(one["comments"][option]), one["told"]) for key, one in named.items() if option in one["comments"]]
    return table(("key", "what follows", "legal"), rows) if rows else ""


def unwrapped(text: str) -> str:
    """Words of a comment, with what looks like code as code."""
    return re.sub(r"(?<![`\w])([a-z_]+(\.[a-z_]+)*=[\w.\[\]/,-]+)", r"`\1`", text)


def metrics(kind: Kind) -> str:
    """A row for each metric of a kind, with its definition."""
    arrows = {True: "more", False: "less", None: ""}
    rows = [(f"`{m.name}`", m.header, m.unit, arrows[m.higher_is_better], m.says) for m in kind.metrics.values()]
    return table(("name", "in reports", "unit", "better", "definition and source"), rows)


def options_of(group: str, options: Mapping[str, str], known: Mapping[str, Any]) -> list[str]:
    """A chapter for each option of a group, with its keys."""
    of_group = {key: one for key, one in known.items() if key.startswith(f"{group}.")}
    return [f"## `{group}={option}`\n\n{unwrapped(comment)}\n\n{keys(of_group, option)}" for option, comment in options.items()]


reference = keys_reference.reference(ROOT / "conf", ROOT / "sweeps")
recipes = reference["groups"].pop(RECIPE)
for dial, options in reference["groups"].items():
    write(f"dials/{dial}.md", f"# {dial}\n\n{ASKS[dial]}\n", *options_of(dial, options, reference["keys"]))
rows = [(f"[`{dial}`]({dial}.md)", ASKS[dial], ", ".join(options)) for dial, options in reference["groups"].items()]
said = "A dial is a question about fine-tuning; an option is a file of `conf/<dial>/`.\n"
write("dials/index.md", "# Dials\n", said, table(("dial", "asks", "options"), rows))
said = "What is held still unless you say otherwise: `conf/train.yaml`.\n"
rows = [(f"`{RECIPE}={name}`", unwrapped(comment)) for name, comment in recipes.items()]
parts = (keys(reference["keys"], keys_reference.TRAIN), "\n## Recipes: values over dials and settings\n", table(("recipe", "is"), rows))
write("settings.md", "# Settings\n", said, *parts)
curation = keys_reference.reference(ROOT / "conf" / "curation", None, SCHEMA)
said = "Keys of `lab curate`, beside those of its source and its prompt: `conf/curation/curate.yaml`. [How it is used](tutorials/curation.md).\n"
parts = [part for group, options in curation["groups"].items() for part in options_of(group, options, curation["keys"])]
write("curation.md", "# Curation\n", said, keys(curation["keys"], SCHEMA.main), *parts)
sweeps = (f"## {name}\n\n{question}\n\n```bash\npython -m lab.train -cn {name}\n```\n" for name, question in reference["sweeps"].items())
write("sweeps.md", "# Sweeps\n", "Questions with the arms that answer them.\n", *sweeps)
write(
    "metrics.md",
    "# Metrics\n",
    "Intervals, tests and claims are on the page [Statistics](statistics.md).\n",
    *(f"## Answers: {kind.name}\n\n{metrics(kind)}" for kind in KINDS.values()),
)
