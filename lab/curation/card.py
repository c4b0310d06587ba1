"""The data card, `README.md`: what is in the folder, how it was made, what it did cost, whose it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lab import __version__
from lab.curation import catalogue as catalogues
from lab.curation.catalogue import Catalogue, Refusal
from lab.curation.config import Curation
from lab.curation.manifest import MANIFEST, Entry
from lab.curation.selection import SPLITS
from lab.host.redaction import without_secrets
from lab.llm.request import parameters
from lab.llm.store import State, Totals


def text(
    rows: Sequence[Entry], refusals: Sequence[Refusal], states: Counter[State], missing: int, catalogue: Catalogue, config: Curation, totals: Totals
) -> str:
    """The card as Markdown. missing: products that have no answer yet."""
    llm, prices = config.llm, config.limits.prices
    money = "not known (no prices were given)" if prices.input_per_million is None else f"{totals.cost:.4f}, by the prices given"
    parts = {split: [row for row in rows if row.split == split] for split in reversed(SPLITS.values())}
    splits = [(split, len(inside), len({row.product for row in inside})) for split, inside in parts.items()]
    licences = [part for name, said in catalogue.licences().items() for part in (f"`{name}` of the catalogue says:", quoted(said))]
    paragraphs = [
        f"# Questions about {catalogue.name}",
        f"{len(rows)} questions about {len({row.image for row in rows})} pictures, asked of a language model and checked by rules, not by people"
        f"{f'; {sum(row.reviewed for row in rows)} were looked at in a review' if any(row.reviewed for row in rows) else ''}. "
        f"`{MANIFEST}` is read by `data=abo_vqa`; `refused.parquet` holds what was left out, and why.",
        *([f"**Not complete**: {missing} products have no answer yet. The same command goes on."] if missing else []),
        "## Counts",
        table(("split", "questions", "products"), splits),
        table(("asks about", "questions"), Counter(row.subset for row in rows).most_common()),
        table(("commonest answer", "questions"), Counter(row.answer for row in rows).most_common(10)),
        "## Left out",
        table(("reason", "number"), list(catalogues.counts(refusals).items())) if refusals else "Nothing.",
        "## How it was made",
        f"vlm-lab {__version__}, `{without_secrets(llm.model)}` at `{without_secrets(llm.base_url)}`, "
        f"parameters {', '.join(f'{key}={value}' for key, value in parameters(llm).items())}; prompt `{config.prompt.name}`:",
        quoted(config.prompt.text),
        f"Answers: {', '.join(f'{number} {state.value}' for state, number in states.items()) or 'none'}. Split {ratio(config)} by product, seed "
        f"{config.curation.seed}; products that share a picture are in one part; near-duplicate pictures across parts are "
        f"{'refused' if config.curation.near_duplicates else 'not looked for'}"
        f"{', and those of ' + ', '.join(config.curation.keep_apart) if config.curation.keep_apart else ''}.",
        f"Cost: {totals.attempts} requests, {totals.tokens} tokens, money {money}.",
        "## Licence and credit",
        f"Credit: {catalogue.credit}" if catalogue.credit else "Whom to credit is for the owner of the catalogue to say.",
        *(licences or ["No licence was found beside the catalogue. Say here under which one it may be used before you pass it on."]),
        "The questions are a model's output: its provider's terms apply to them too.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def ratio(config: Curation) -> str:
    """`80/10/10`."""
    return "/".join(f"{share:g}" for share in config.curation.split)


def table(header: Sequence[str], rows: Sequence[tuple]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def quoted(text: str) -> str:
    """A text as a quotation in Markdown."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
