"""lab verify RUN: does a finished run, or a server of it, still give the answers it was measured with? Light until it starts."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import paths, plugins
from lab.cli import add_run, bounded, program, run_cli, set_up_logging, take_run
from lab.errors import ConfigError, ContractError
from lab.host.redaction import hide

DESCRIPTION = """Say whether a finished run still gives the answers it was measured with; with --endpoint, whether a server does that speaks the
OpenAI protocol (lab serve, vLLM, transformers serve). Exit code 0 if every check passes, else 1."""


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog=program("lab.verify"), usage="%(prog)s RUN [options]", description=DESCRIPTION)
    parser.add_argument("words", nargs="*", metavar="RUN", help=argparse.SUPPRESS)
    add_run(parser)
    parser.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), help="the folder of run folders")
    parser.add_argument("--folder", type=paths.argument, help="check this exported Hugging Face folder instead of exporting anew")
    parser.add_argument("--endpoint", metavar="URL", help="ask this server instead, such as http://localhost:8000/v1; no weights are loaded here")
    parser.add_argument("--model", metavar="NAME", help="what the server calls the run (default: the run's identity)")
    parser.add_argument("--base", metavar="NAME", help="what the server calls the bare base (default: the adapter's parent, or the checkpoint)")
    parser.add_argument("--examples", type=bounded(int, 1), default=32, metavar="N", help="questions of dev that a server is asked (default: 32)")
    parser.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the server's bearer token")
    parser.add_argument("--plugins", nargs="+", action="extend", default=[], metavar="FOLDER", help=plugins.HELP)
    given = parser.parse_args()
    take_run(parser, given, given.words)
    if given.words:
        parser.error(f"{' '.join(given.words)}: one run is verified at a time. Type {parser.prog} {given.run}")
    set_up_logging()
    if given.endpoint is None:
        sys.exit(run_cli(lambda: verify(given.runs_dir, given.run, given.folder, given.plugins)))
    sys.exit(run_cli(lambda: verify_endpoint(given)))


def verify_endpoint(given: argparse.Namespace) -> int:
    """Replay a run's questions at a server; 0 if it answers as stored, else 1.

    Raises `ConfigError` for a server that does not answer, `ContractError` where it has no such model.
    """
    from lab.finished import find
    from lab.freezing import from_dict
    from lab.store import runs

    plugins.load(given.plugins)
    run = find(given.runs_dir, given.run)
    run_dir = runs.folder(given.runs_dir, run.identity)
    x = from_dict(run.config, f"{run_dir / 'run.json'}")
    key = os.environ.get(given.api_key_env) if given.api_key_env else None
    if given.api_key_env and not key:
        raise ConfigError(f"--api-key-env {given.api_key_env}: this variable is not set. Set it to the server's token.")
    hide(key or "")

    from lab.evaluation import equivalence
    from lab.run import endpoint

    with contextlib.closing(endpoint.Endpoint(given.endpoint, key, given.model or run.identity)) as server:
        asked = endpoint.questions(run, run_dir, x, given.examples)
        checks = endpoint.replay(asked, server, server.base(x.model.path, given.base))
    print(equivalence.table(checks), flush=True)
    if equivalence.passed(checks):
        return 0
    failed = ", ".join(check.name for check in checks if check.passed is False)
    print(f"error: {server.shown} does not serve run {run.identity} as it was measured ({failed}). Do not use it.", file=sys.stderr)
    return 1


def verify(runs_dir: Path, name: str, folder: Path | None = None, own: Sequence[str] = ()) -> int:
    """Run the equivalence gate on a run's files; 0 if every check passes, else 1. own: plugins that its data come from.

    Raises `DataError` if there is no such finished run, `ContractError` if its files would not be used as they were trained.
    """
    from lab.finished import find
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
            x.model, vlm, samples, encoder, lambda: running.reload(x, run_dir), plain, running.stored_probe(run_dir, encoder.readout),
            x.evaluation.shared_prefix,
        )
    print(equivalence.table(checks))
    return 0 if equivalence.passed(checks) else 1


if __name__ == "__main__":
    main()
