"""python tests/bars.py: what takes minutes, each command as a user would type it, and a table of what came of them.

Run by `make bars`, in an empty folder; exit code 1 if a command failed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
WIDE = "python -m lab.train model=qwen2_vl_2b model.path=wide trainer.max_steps=3 data.num_train=24 data.num_minival=4 data.num_dev=8"
PYTEST = f"python -m pytest -n 0 -q -s {TESTS}"
BARS = {
    "a checkpoint of the 2B's widths, two blocks": f"python {TESTS}/published.py wide",
    "the full-size line of the README over it, in the option's own bfloat16": WIDE,
    "the same widths in float32; arms under joblib, in new processes; a killed search; 48 arms in MLflow; the 7B options": f"{PYTEST} -m bar",
    "a newcomer: install, first sweep, report, own file, answers": f"python {TESTS}/newcomer.py",
    "free text on easy-VQA": "python -m lab.train data=easy_vqa lora.r=4,16 -m",
    "coverage of intervals by exact sums": f"{PYTEST}/test_proportions.py -k exact_sums",
    "a million conversations: index, first steps, memory": f"python {TESTS}/million.py",
    "a million conversations in one JSON list: the same": f"python {TESTS}/million.py --read-only --list 10000 1000000",
    "what lab.plan says against what it takes, six configurations": f"python {TESTS}/plans.py",
    "beside TRL and plain PEFT, 2B widths": "python -m tools.bench --only c --rounds 3",
    "beside TRL and plain PEFT, the other rows, hours": "python -m tools.bench --only a,b,d --rounds 3 --out bench.json",
    "properties of configs, 1,000 examples each": f"{PYTEST}/test_properties_config.py",
    "properties of run folders, 1,000 examples each": f"{PYTEST}/test_properties_runs.py",
    "properties of data, 1,000 examples each": f"{PYTEST}/test_properties_data.py",
    "grid of options, order 0": "python -m grid --seed 0",
    "grid of options, order 1": "python -m grid --seed 1",
    "grid of options, order 2": "python -m grid --seed 2",
}


@dataclass(frozen=True)
class Outcome:
    """Of one command. last: the lines that it printed last."""

    bar: str
    command: str
    code: int
    seconds: float
    last: list[str]


def run(bar: str, command: str, folder: Path) -> Outcome:
    """Run a command with this Python, and keep all that it prints in a file."""
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    ways = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, ways)), "HYPOTHESIS_PROFILE": "local"}
    log, start = folder / f"{len(list(folder.glob('*.log')))}.log", time.monotonic()
    with log.open("w") as out:
        code = subprocess.run(words, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    printed = [line for line in log.read_text(errors="replace").replace("\r", "\n").splitlines() if line.strip()]
    return Outcome(bar, command.replace(f"{TESTS}/", "tests/"), code, time.monotonic() - start, printed[-6:])


def main() -> int:
    """Run all, or those whose name holds the first argument."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    folder = Path(tempfile.mkdtemp(prefix="lab-bars-"))
    print(f"everything that is printed: {folder}/*.log", flush=True)
    outcomes = []
    for bar, command in BARS.items():
        if wanted in bar:
            outcomes.append(run(bar, command, folder))
            done = outcomes[-1]
            print(f"\n{'ok  ' if done.code == 0 else 'FAIL'} {done.seconds:7.0f} s  {bar}\n     {done.command}", flush=True)
            print("\n".join(f"       {line[:150]}" for line in done.last), flush=True)
    return int(any(outcome.code for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
