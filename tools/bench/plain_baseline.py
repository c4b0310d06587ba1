"""The same arm through PEFT and Transformers alone, in the loop that their documentation has, from a bundle (`tools.bench.bundle`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lab.bench.results import WARM_UP, Round, differences
from tools.bench.trl_baseline import load_model, read_spec

if TYPE_CHECKING:
    import torch

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
    import torch
    from datasets import Dataset, load_from_disk
    from transformers import AutoProcessor, get_scheduler

    spec, model = read_spec(bundle), load_model(bundle)
    processor, rows = AutoProcessor.from_pretrained(bundle / "processor"), cast(Dataset, load_from_disk(bundle / "train"))
    processor.tokenizer.padding_side = "right"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=spec["lr"], betas=tuple(spec["betas"]), weight_decay=spec["weight_decay"])
    schedule = get_scheduler(spec["schedule"], optimizer, num_warmup_steps=0, num_training_steps=WARM_UP + steps)
    size, accumulate = spec["batch_size"], spec["accumulate"]
    ends, losses = [], []
    model.train()
    for step in range(WARM_UP + steps):
        total = 0.0
        for part in range(accumulate):
            start = (step * accumulate + part) * size
            batch = batch_of(processor, [rows[i] for i in range(start, start + size)])
            loss = model(**batch).loss / accumulate
            loss.backward()
            total += loss.item()
        if spec["clip"]:
            torch.nn.utils.clip_grad_norm_(trained, spec["clip"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
        ends.append(time.perf_counter())
    return Round(differences(ends), losses)
