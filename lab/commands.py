"""The console script `lab COMMAND ...`, which is `python -m lab.MODULE ...`. Light: only the command's own module is imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lab import __version__


class Command(NamedTuple):
    """module: has `main()`. takes: what completes behind it: keys, the keys of one section, those of curation, runs, files, or words."""

    module: str
    summary: str
    takes: tuple[str, ...] = ()


COMMANDS = {
    "curate": Command("lab.curate", "questions about a catalogue's pictures, asked of a language model, for data=abo_vqa", ("curation",)),
    "train": Command("lab.train", "train one experiment, or a sweep with -m; --help lists every key", ("keys",)),
    "plan": Command("lab.plan", "before you run: what a comparison could see, and what it costs", ("keys",)),
    "report": Command("lab.report.__main__", "compare the arms of the latest sweep: report/<sweep>/report.html"),
    "evaluate": Command("lab.evaluate", "score a finished run again, on other data if asked", ("runs", "keys")),
    "score": Command("lab.score", "stored answers by BERTScore, BARTScore or cosine; replies to a benchmark by its rule", ("runs",)),
    "predict": Command("lab.predict", "what a finished run answers about pictures of yours: a table and a gallery", ("runs", "files many", "keys")),
    "serve": Command("lab.serve", "finished runs behind HTTP: the OpenAI protocol, a form, a page", ("runs", "keys")),
    "verify": Command("lab.verify", "does a finished run still give the answers it was measured with?", ("runs",)),
    "export": Command("lab.export", "a finished run as a plain adapter or model folder, asked by Transformers alone", ("runs",)),
    "sync": Command("lab.sync", "deliver runs to MLflow that it has not received"),
    "bench": Command("lab.bench.__main__", "how fast a step is, and where its time goes", ("keys",)),
    "data check": Command("lab.data.check", "what training would meet in data of yours, and every bad record", ("files", "keys data")),
    "doctor": Command("lab.doctor", "is this machine ready? versions, GPU, memory, disk, store, checkpoints"),
    "completion": Command("lab.completion", "tab completion: eval \"$(lab completion bash)\", or zsh", ("words bash zsh",)),
}


def main() -> int:
    """The console script: run the command that its first words name, under `sys.argv` of that command."""
    arguments = sys.argv[1:]
    name = named(arguments)
    if name is None:
        wanted = " ".join(word for word in arguments if not word.startswith("-"))
        if not wanted:
            print(f"vlm-lab {__version__}" if "--version" in arguments else listing())
            return 0
        from lab.errors import did_you_mean

        print(f"error: {wanted}: there is no such command.{did_you_mean(wanted, COMMANDS)} `lab` lists them all.", file=sys.stderr)
        return 2
    sys.argv = [f"lab {name}", *arguments[len(name.split()) :]]
    return importlib.import_module(COMMANDS[name].module).main() or 0


def named(words: Sequence[str]) -> str | None:
    """The command that words begin with, if they do."""
    return next((name for name in COMMANDS if list(words[: len(name.split())]) == name.split()), None)


def listing() -> str:
    """One line a command."""
    rows = [f"  lab {name:<14}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(["vlm-lab: many LoRA arms over one frozen vision-language model, compared.", "", *rows, "", "lab COMMAND --help says more."])
