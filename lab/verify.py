"""lab verify RUN: does a finished run still give the answers it was measured with? Light until it starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import paths, plugins
from lab.cli import add_run, program, run_cli, set_up_logging, take_run
from lab.errors import ContractError

DESCRIPTION = "Say whether a finished run still gives the answers it was measured with. Exit code 0 if every check passes, else 1."


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog=program("lab.verify"), usage="%(prog)s RUN [options]", description=DESCRIPTION)
    parser.add_argument("words", nargs="*", metavar="RUN", help=argparse.SUPPRESS)
    add_run(parser)
    parser.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), help="the folder of run folders")
    parser.add_argument("--folder", type=paths.argument, help="check this exported Hugging Face folder instead of exporting anew")
    parser.add_argument("--plugins", nargs="+", action="extend", default=[], metavar="FOLDER", help=plugins.HELP)
    given = parser.parse_args()
    take_run(parser, given, given.words)
    if given.words:
        parser.error(f"{' '.join(given.words)}: one run is verified at a time. Type {parser.prog} {given.run}")
    set_up_logging()
    sys.exit(run_cli(lambda: verify(given.runs_dir, given.run, given.folder, given.plugins)))


def verify(runs_dir: Path, name: str, folder: Path | None = None, own: Sequence[str] = ()) -> int:
    """Run the equivalence gate on a run's files; 0 if every check passes, else 1. own: plugins that its data come from.

    Raises `DataError` if there is no such finished run, `ContractError` if its files would not be used as they were trained.
    """
    from lab.evaluate import find
    from lab.store import runs

    plugins.load(own)
    run = find(runs_dir, name)

    import tempfile

    import torch

    from lab import data
    from lab import run as running
    from lab.artifacts import contract, export
    from lab.evaluation import equivalence
    from lab.freezing import from_dict
    from lab.model import Vlm
    from lab.model.encoding import Encoder
    from lab.training.screening import screen

    x = from_dict(run.config, f"{runs.folder(runs_dir, run.identity) / 'run.json'}")
    torch.set_num_threads(x.trainer.threads)
    run_dir = runs.folder(runs_dir, run.identity)
    vlm = running.reload(x, run_dir)
    splits = data.load(x.data, Path(x.tracking.cache_dir))
    encoder = Encoder(vlm, x.prompt, x.seed, splits.answers)
    trained = contract.load(run_dir)
    contract.enforce(trained, contract.describe(x, vlm, encoder, encoder.readout), f"verifying {run.identity}")
    if folder is not None:
        differing = contract.differences(trained, contract.load(folder))
        if differing:
            raise ContractError(f"{folder} was not exported from {run.identity}:\n  " + "\n  ".join(differing))
    dev = screen(splits, ("dev",), encoder, x.data)[0].dev
    samples = [dev[i] for i in range(min(x.evaluation.probe_examples, len(dev)))]
    with tempfile.TemporaryDirectory(prefix="lab-export-") as scratch:

        def plain(model: Vlm) -> Path:
            if folder is not None:
                return folder
            export.export(model, Path(scratch) / "export", trained)
            return Path(scratch) / "export"

        checks, _ = equivalence.verify(
            x.model, vlm, samples, encoder, lambda: running.reload(x, run_dir), plain, running.stored_probe(run_dir, encoder.readout)
        )
    print(equivalence.table(checks))
    return 0 if equivalence.passed(checks) else 1


if __name__ == "__main__":
    main()
