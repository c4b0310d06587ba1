"""python tests/million.py [--read-only] [--list] [N ...]: manifests of N conversations (10,000, 100,000 and 1,000,000), and what they cost.

Of each: records indexed a second, seconds from a start to the tenth optimizer step with the index there, and anonymous memory (Pss_Anon) of
the whole process tree with four loader workers after an epoch. Exit code 1 where a bar is missed: 50,000 records/s, 60 s, 300 MB more for
the largest than for the smallest. `million.png` plots memory against N. --read-only: the epoch reads and parses every record in the
workers and does not tokenise it, which at a million takes minutes instead of most of an hour. --list: the manifest is a JSON list.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SIZES = (10_000, 100_000, 1_000_000)
WORKERS, BATCH = 4, 64
RECORDS_A_SECOND, FIRST_STEPS_S, GROWTH_MB = 50_000, 60.0, 300.0
PICTURES = 200
WORDS = "the a red blue green circle square picture shows of in with left right where what is how many colour".split()  # noqa: SIM905


def write(folder: Path, number: int, as_list: bool = False) -> Path:
    """A manifest of so many conversations of one to three answers, two of three about one of a few pictures: JSON Lines, or a list."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for place in range(PICTURES):
        Image.new("RGB", (32, 32), (place, 0, 0)).save(folder / f"{place}.png")
    draw = random.Random(0)
    with (folder / "manifest.json").open("w", encoding="utf-8") as file:
        for i in range(number):
            said: list[dict[str, str]] = []
            for _ in range(draw.randint(1, 3)):
                question, answer = (" ".join(draw.choices(WORDS, k=draw.randint(*lengths))) for lengths in ((6, 14), (3, 12)))
                said += [{"from": "human", "value": f"{question}?"}, {"from": "gpt", "value": answer}]
            record: dict[str, Any] = {"id": f"r{i}", "conversations": said}
            if i % 3:
                record["image"] = f"{i % PICTURES}.png"
                said[0]["value"] = f"<image>\n{said[0]['value']}"
            before, after = ("," if i else "[", "") if as_list else ("", "\n")
            file.write(before + json.dumps(record) + after)
        file.write("]" if as_list else "")
    return folder / "manifest.json"


def anonymous() -> float:
    """MB of anonymous memory of this process and all below it, what they share counted once."""
    me = psutil.Process()
    total = 0
    for process in (me, *me.children(recursive=True)):
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))
    return total / 1000


def computed() -> float:
    """Seconds of CPU that this process and those below it that have ended have taken."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def measure(folder: Path, read_only: bool) -> dict[str, float]:
    """Index, then an epoch, in this process. before_mb: memory before anything of the manifest is there."""
    from lab import data
    from lab.config import DataDial
    from lab.data.conversation_file.index import open_index
    from lab.host.garbage import frozen_heap
    from lab.training import ordering  # noqa: F401 (torch, so that it is there before memory is looked at)

    before = anonymous()
    start, cpu = time.perf_counter(), computed()
    index = open_index(str(folder / "manifest.json"), None, {}, folder / "cache")
    rate, rate_cpu = len(index) / (time.perf_counter() - start), len(index) / (computed() - cpu)
    start = time.perf_counter()
    dial = DataDial(name="conversations", sources=[str(folder / "manifest.json")], num_dev=8, num_minival=4)
    splits = data.load(dial, folder / "cache")
    loading, start, seen, memory = time.perf_counter() - start, time.perf_counter(), 0, 0.0
    loader = loader_of(splits, folder, read_only)
    with frozen_heap():  # as a training with workers
        for number, _ in enumerate(loader):
            seen += BATCH
            if number == len(loader) - WORKERS:
                memory = anonymous()
    return {
        "records": len(index), "records_s": rate, "records_cpu_s": rate_cpu, "load_s": loading, "epoch_s": time.perf_counter() - start,
        "seen": seen, "memory_mb": memory, "before_mb": before,
    }  # fmt: skip


def loader_of(splits: Any, folder: Path, read_only: bool) -> Any:
    """An epoch of train in its order, by worker processes: read alone, or as the training loop gets it."""
    import torch
    from torch.utils.data import DataLoader

    from lab.training.ordering import SeededOrder

    torch.set_num_threads(1)
    if read_only:
        order = SeededOrder(len(splits.train), 0, 1, sources=splits.sources)
        return DataLoader(splits.train, BATCH, sampler=order, num_workers=WORKERS, collate_fn=len)
    from lab import model
    from lab.config import TrainerSection
    from lab.model.encoding import Encoder
    from lab.training.datamodule import DataModule
    from lab.training.examples import Examples

    x = composed(folder)
    examples = Examples(splits.train, Encoder(model.load(x.model), x.prompt, answers=splits.answers), splits.sources)
    return DataModule(examples, examples, TrainerSection(num_workers=WORKERS), (BATCH, 1), 0, len(examples) // BATCH).train_dataloader()


def overrides(folder: Path) -> list[str]:
    """What the run gives."""
    manifest = f"data.sources=[{folder / 'manifest.json'}]"
    return ["data=conversations", manifest, "data.num_dev=8", "data.num_minival=4", f"tracking.cache_dir={folder / 'cache'}"]


def composed(folder: Path) -> Any:
    """The experiment."""
    from composing import compose

    from lab.sweeping.launcher import register

    register()
    return compose(*overrides(folder))


def first_steps(folder: Path) -> float:
    """Seconds from the start of `lab train` to its tenth optimizer step, the index being there."""
    command = [sys.executable, "-m", "lab.train", *overrides(folder), "trainer.max_steps=10", "trainer.batch_size=8", "tracking.enabled=false"]
    command += [f"trainer.num_workers={WORKERS}", f"tracking.runs_dir={folder / 'runs'}", "evaluation.verify=false", "evaluation.latency_examples=0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (record,) = (folder / "runs").glob("*/run.json")
    return json.loads(record.read_text())["metrics"]["time/first_metric_s"]


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Memory against the number of records."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["records"] for row in rows], [row["memory_mb"] for row in rows], marker="o")
    axes.set(xscale="log", xlabel="records", ylabel="anonymous memory of all processes, MB", ylim=(0, None))
    figure.savefig(path, dpi=120)


def main() -> int:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("sizes", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--folder", type=Path, help="where one measurement is made")
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(row := measure(given.folder, given.read_only)))
        print(json.dumps(row), file=sys.stderr)
        return 0
    rows = []
    for number in given.sizes:
        folder = Path(tempfile.mkdtemp(prefix="million-"))
        write(folder, number, given.list)
        command = [sys.executable, __file__, "--folder", str(folder), *(["--read-only"] if given.read_only else [])]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        rows.append({**row, "first_steps_s": first_steps(folder)})
        print(json.dumps({key: round(value, 1) for key, value in rows[-1].items()}), flush=True)
        shutil.rmtree(folder)
    plot(rows, Path("million.png"))
    growth = rows[-1]["memory_mb"] - rows[0]["memory_mb"]
    print(f"growth from {rows[0]['records']:,} to {rows[-1]['records']:,} records: {growth:.0f} MB; million.png")
    last = rows[-1]
    return int(growth >= GROWTH_MB or last["records_s"] < RECORDS_A_SECOND or last["first_steps_s"] >= FIRST_STEPS_S)


if __name__ == "__main__":
    sys.exit(main())
