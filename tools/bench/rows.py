"""The rows of the comparison, each interleaved over rounds, on the same samples with the same hyperparameters.

    a    twelve arms from command to report, against TRL (one arm timed, times twelve)
    b    the same of easy-VQA on the shipped base
    c    drawn products, 4.5 questions a picture, on two blocks of Qwen2-VL-2B's widths in bfloat16, step by step
    d    trees against the cheapest plain batch on that model: 8 questions of a picture of 391 tokens

A ratio is how many times as long the other takes: TRL at its defaults (`default`) and at the fastest of its settings (`best`), PEFT and
Transformers in a plain loop (`plain`). A row counts if its losses agree to `MOST_GAP`, relative, over the first steps.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab import run as running
from lab.bench import trees
from lab.bench.results import Round
from lab.bench.steps import lasting
from lab.cli import compose
from lab.config import Experiment
from lab.errors import ConfigError
from lab.host.progress import Report
from tools.bench import bundle, head_to_head, inputs, products, sweep, trl_baseline
from tools.bench.interleaved_runs import Measured, interleave
from tools.bench.plain_baseline import PlainArm

MOST_GAP = 0.05
TRIED_STEPS = 1
CACHE = Path("cache")
Row = dict[str, Any]


def ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> list[float]:
    """How many times as long a step of another takes, round by round."""
    return [statistics.median(other.seconds) / statistics.median(own.seconds) for own, other in zip(ours, theirs, strict=True)]


def by_steps(x: Experiment, rounds: int, steps: int, report: Report) -> Row:
    """Optimizer steps of one arm against TRL's and a plain loop's."""
    bundle.require_plain(x)
    threads = x.trainer.threads
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as scratch:
        files = bundle.write(lasting(x, steps), running.prepare(x, report), Path(scratch) / "bundle")
        tried: dict[trl_baseline.Settings, Measured] = {}
        for each in trl_baseline.candidates((threads,), (0, 1)):  # one at a time: each has a base of its own
            tried |= head_to_head.try_all(files, [each], TRIED_STEPS, report)
        peers = {"default": trl_baseline.defaults(threads), "best": head_to_head.fastest(tried)}
        arms = {name: trl_baseline.TrlArm(files, settings) for name, settings in peers.items()}
        measured = interleave({"ours": head_to_head.OurArm(x), **arms, "plain": PlainArm(files, threads)}, rounds, steps, report)
    ours = measured.pop("ours")
    return {
        "ratios": {name: ratios(ours.rounds, other.rounds) for name, other in measured.items()},
        "loss_gap": max(head_to_head.gap(ours.rounds[i].losses, one.losses) for other in measured.values() for i, one in enumerate(other.rounds)),
        "milliseconds": {name: 1e3 * statistics.median(one.seconds) for name, one in {"ours": ours, **measured}.items()},
        "best": peers["best"].name,
        "steps": steps,
    }


def made(name: str, write: Callable[[Path], None]) -> Path:
    """A folder of the benchmark's own."""
    return inputs.write_once((CACHE / name).resolve(), write)


def wide() -> list[str]:
    """The wide model, in the dtype that its option asks for."""
    return ["model=qwen2_vl_2b", f"model.path={made('bench_wide', products.write_checkpoint)}"]


def asking(name: str, size: tuple[int, int], asked: Sequence[int], number: dict[str, int]) -> list[str]:
    """Questions about drawn products, those of one picture together. number: of products in each split."""
    folder = made(name, lambda work: products.write(work, size, asked, number))
    return ["data=questions", f"data.path={folder}/questions.jsonl", "data.kind=text", *TOGETHER, f"data.questions_per_image={max(asked)}"]


PLAIN = ["optim.warmup_fraction=0", "tracking.enabled=false"]
"""What TRL has no equivalent of, switched off."""
FEW = ["data.num_train=4000", "data.num_minival=200", "data.num_dev=1000", "data.questions_per_image=8"]
TOGETHER = ["data.order=by_image", "trainer.layout=auto"]


def row_a(overrides: list[str], rounds: int, steps: int, report: Report) -> Row:
    """Twelve arms of the benchmark's own model and pictures, command to report."""
    from tools.bench.__main__ import own_inputs

    given = own_inputs([*TOGETHER, "evaluation.shared_prefix=true", *overrides])
    return sweep.interleaved(compose(given), given, rounds, report)


def row_b(overrides: list[str], rounds: int, steps: int, report: Report) -> Row:
    """Twelve arms of easy-VQA on the shipped base."""
    given = [*PLAIN, "data=easy_vqa", *TOGETHER, *FEW, "evaluation.zero_shot=false", "evaluation.shared_prefix=true", *overrides]
    return sweep.interleaved(compose(given), given, rounds, report)


def row_c(overrides: list[str], rounds: int, steps: int, report: Report) -> Row:
    """Drawn products, 4.5 questions a picture, step by step."""
    given = [*PLAIN, *wide(), *asking("bench_products", products.SMALL, (4, 5), products.MANY), "trainer.batch_size=8", *overrides]
    return by_steps(compose(given), rounds, steps, report)


def row_d(overrides: list[str], rounds: int, steps: int, report: Report) -> Row:
    """Trees against the cheapest plain batch."""
    data = asking("bench_products_8", products.PHOTOGRAPH, (8,), products.FEW)
    given = [*PLAIN, *wide(), *data, "trainer.layout=trees", "trainer.batch_size=8", *overrides]
    found = trees.measure(compose(given), rounds, report)
    return {
        "ratios": {way: found.ratios(way) for way in ("plain", "rows")},
        "memory_ratio": found.memory_ratio,
        "loss_gap": found.gap,
        "tokens_saved": found.saved,
        "plain_size": found.size,
    }


ROWS: dict[str, Callable[[list[str], int, int, Report], Row]] = {"a": row_a, "b": row_b, "c": row_c, "d": row_d}


def chosen(only: str) -> list[str]:
    """Rows by their letters, `a,c`. Raises `ConfigError`."""
    names = [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in ROWS]:
        raise ConfigError(f"--only {only}: there is no row {unknown[0]}. Legal: {','.join(ROWS)}.")
    return list(dict.fromkeys(names))


def told(name: str, row: Row) -> str:
    """A row in words: the smallest, median and largest ratio of its rounds."""
    lines = [f"{name}  {ROWS[name].__doc__ or ''}".rstrip()]
    for other, values in row["ratios"].items():
        lines.append(f"   {other:<8} {statistics.median(values):6.2f} times as long ({min(values):.2f} to {max(values):.2f})")
    if "memory_ratio" in row:
        lines.append(f"   memory   {row['memory_ratio']:6.2f} of plain")
    lines.append(f"   losses differ by {row['loss_gap']:.1e}" + ("" if row["counts"] else f", more than {MOST_GAP}: this row does not count"))
    return "\n".join(lines)


def run(only: str, overrides: list[str], rounds: int, steps: int, report: Report, publish: Callable[[dict[str, Row]], None]) -> dict[str, Row]:
    """All rows that are chosen. publish: is given what is known after each."""
    found: dict[str, Row] = {}
    for name in chosen(only):
        row = ROWS[name](overrides, rounds, steps, report)
        found[name] = {**row, "counts": row["loss_gap"] <= MOST_GAP}
        print(told(name, found[name]), flush=True)
        publish(found)
    return found
