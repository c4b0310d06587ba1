"""python tests/plans.py [NAME ...]: what `lab.plan` says of six configurations here, beside what they take: seconds of training, and memory.

Exit code 1 where the median error of the six is above `MOST`. Seconds are those of the training loop (`train/seconds`); memory is planned for
what training holds, and measured as what the whole process held at most, libraries of about half a gigabyte included. Timings mean something
on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
MOST = 0.25
TINY = "trainer.max_steps=100 data.num_minival=8 data.num_dev=64"
WIDE = "model=qwen2_vl_2b model.path=wide trainer.max_steps=6 trainer.batch_size=8 data.num_train=96 data.num_minival=4 data.num_dev=32"
TREES = "data.order=by_image trainer.layout=trees"
CONFIGS = {
    "tiny": TINY,
    "tiny, trees": f"{TINY} {TREES}",
    "tiny, checkpointing": f"{TINY} trainer.gradient_checkpointing=true",
    "two blocks of the 2B, float32": f"{WIDE} model.dtype=float32",
    "two blocks of the 2B, bfloat16": f"{WIDE} model.dtype=bfloat16",
    "two blocks of the 2B, bfloat16, trees": f"{WIDE} model.dtype=bfloat16 {TREES}",
}
BESIDES = "tracking.enabled=false evaluation.verify=false evaluation.latency_examples=0 trainer.save_every=null trainer.if_finished=again"


def command(folder: Path, module: str, *words: str) -> None:
    """Run a command of the laboratory in a folder. Raises `CalledProcessError` with what it printed."""
    ways = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, ways))}
    done = subprocess.run([sys.executable, "-m", module, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"python -m {module} {' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def row(folder: Path, name: str) -> tuple[float, str]:
    """By what share the plan's seconds of a configuration are off, and its line of the table."""
    words = [*CONFIGS[name].split(), *BESIDES.split(), f"tracking.runs_dir={folder}/{len(list(folder.iterdir()))}"]
    command(folder, "lab.plan", *words, "--device", "here", "--json", "plan.json")
    command(folder, "lab.train", *words)
    plan = json.loads((folder / "plan.json").read_text())
    (path,) = Path(words[-1].partition("=")[2]).glob("*/run.json")
    metrics, planned = json.loads(path.read_text())["metrics"], plan["train"]["seconds"]
    took, memory = metrics["train/seconds"], plan["memory_bytes"]["training"] / 2**20
    off = planned["expected"] / took - 1
    inside = "inside" if planned["low"] <= took <= planned["high"] else "outside"
    seconds = f"{planned['expected']:8.1f} ({planned['low']:.1f} to {planned['high']:.1f})"
    (folder / "plan.json").unlink()
    return off, f"{name:38} {seconds:>26} {took:8.1f} {off:+7.0%}  {inside:8} {memory:8.0f} {metrics['memory/peak_mb']:8.0f}"


def main() -> int:
    """Print the table, or some of its rows."""
    wanted = sys.argv[1:] or list(CONFIGS)
    with tempfile.TemporaryDirectory(prefix="lab-plans-") as scratch:
        folder = Path(scratch)
        if any("model.path=wide" in CONFIGS[name] for name in wanted):
            subprocess.run([sys.executable, TESTS / "published.py", "wide"], cwd=folder, check=True, capture_output=True)
        print(f"{'':38} {'planned, s':>26} {'took, s':>8} {'off':>7}  {'interval':8} {'planned, MiB':>8} {'held, MiB':>8}", flush=True)
        errors = []
        for name in wanted:
            off, line = row(folder, name)
            errors.append(abs(off))
            print(line, flush=True)
    print(f"median error of seconds {statistics.median(errors):.0%}; wanted: at most {MOST:.0%}")
    return int(statistics.median(errors) > MOST)


if __name__ == "__main__":
    sys.exit(main())
