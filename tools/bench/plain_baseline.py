"""The same arm through PEFT and Transformers alone, in the loop that their documentation has, from a bundle (`tools.bench.bundle`).

`python -m tools.bench.plain_baseline BUNDLE` is a whole arm: load, train, the loss on dev, save the adapter.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lab.bench.results import WARM_UP, Round, differences
from tools.bench.trl_baseline import load_model, read_spec

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from peft import PeftModel

IGNORED = -100
"""A label that the loss leaves out."""


def batch_of(processor: Any, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows of text and images as a padded batch with labels at the completions."""
    import torch

    made = processor(
        text=[row["prompt"] + row["completion"] for row in rows], images=[row["images"] for row in rows], padding=True, return_tensors="pt"
    )
    labels = torch.full_like(made["input_ids"], IGNORED)
    for i, row in enumerate(rows):
        number = len(processor.tokenizer(row["completion"], add_special_tokens=False)["input_ids"])
        end = int(made["attention_mask"][i].nonzero()[-1]) + 1
        labels[i, end - number : end] = made["input_ids"][i, end - number : end]
    return {**made, "labels": labels}


@dataclass(frozen=True)
class PlainArm:
    """One arm without a trainer, to be interleaved with ours."""

    bundle: Path
    threads: int

    def open(self) -> Callable[[int], Round]:
        """Import everything; each round loads the model anew."""
        import torch

        torch.set_num_threads(self.threads)
        load_model(self.bundle)
        return lambda steps: one_round(self.bundle, steps)


def one_round(bundle: Path, steps: int) -> Round:
    """Steps of a plain loop, timed where each ends."""
    return trained(bundle, WARM_UP + steps)[0]


def read(bundle: Path, split: str) -> tuple[Any, Dataset]:
    """The bundle's processor, and its rows of a split."""
    from datasets import Dataset, load_from_disk
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(bundle / "processor")
    processor.tokenizer.padding_side = "right"
    return processor, cast(Dataset, load_from_disk(bundle / split))


def trained(bundle: Path, steps: int) -> tuple[Round, PeftModel]:
    """So many steps, timed where each ends, and the model that comes of them."""
    import torch
    from transformers import get_scheduler

    spec, model = read_spec(bundle), load_model(bundle)
    processor, rows = read(bundle, "train")
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=spec["lr"], betas=tuple(spec["betas"]), weight_decay=spec["weight_decay"])
    schedule = get_scheduler(spec["schedule"], optimizer, num_warmup_steps=0, num_training_steps=steps)
    size, accumulate = spec["batch_size"], spec["accumulate"]
    ends, losses = [], []
    model.train()
    for step in range(steps):
        total = 0.0
        for part in range(accumulate):
            start = (step * accumulate + part) * size
            batch = batch_of(processor, [rows[i] for i in range(start, start + size)])
            loss = model(**batch).loss / accumulate
            loss.backward()
            total += loss.item()
        if spec["clip"]:
            torch.nn.utils.clip_grad_norm_(learning, spec["clip"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        ends.append(time.perf_counter())
    return Round(differences(ends), losses), model


def whole_arm(bundle: Path, threads: int, adapter: Path) -> dict[str, float]:
    """Train all steps, take the loss on dev, save the adapter."""
    import torch

    torch.set_num_threads(threads)
    spec = read_spec(bundle)
    model = trained(bundle, spec["steps"])[1].eval()
    processor, rows = read(bundle, "dev")
    size, total = spec["eval_batch_size"], 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), size):
            part = [rows[i] for i in range(start, min(start + size, len(rows)))]
            total += model(**batch_of(processor, part)).loss.item() * len(part)
    model.save_pretrained(str(adapter))
    return {"eval_loss": total / len(rows)}


def command(bundle: Path, threads: int, scratch: Path) -> list[str]:
    """What Python is told to run a whole arm in a process of its own."""
    return ["-m", "tools.bench.plain_baseline", str(bundle), "--threads", str(threads), "--adapter", f"{scratch}/plain-adapter"]


def main() -> int:
    """One whole arm in this process; prints its metrics as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.plain_baseline", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--adapter", type=Path, required=True, help="where to save the trained adapter")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    print(json.dumps(whole_arm(arguments.bundle, arguments.threads, arguments.adapter)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
