"""The same arm through TRL's SFTTrainer (github.com/huggingface/trl), from a bundle of plain files (`tools.bench.bundle`).

`python -m tools.bench.trl_baseline BUNDLE` is a whole arm as a user of TRL would run it: load, train, evaluate on dev, save. Nothing of
this laboratory is imported but what notes times.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.bench.results import WARM_UP, Round, differences
from lab.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from trl import SFTTrainer


@dataclass(frozen=True)
class Settings:
    """What changes TRL's speed and not its arithmetic. workers: processes that read and prepare images."""

    name: str
    checkpointing: bool
    workers: int
    threads: int


def defaults(threads: int) -> Settings:
    """TRL 1.16 as it comes: gradient checkpointing, images prepared in the training process."""
    return Settings("TRL, defaults", True, 0, threads)


def candidates(threads: tuple[int, ...], workers: tuple[int, ...] = (0, 1, 2)) -> list[Settings]:
    """Settings worth trying: no checkpointing, with so many threads and workers. TRL itself refuses to pack images."""
    return [
        Settings(f"TRL, no checkpointing, {count} workers, {thread} threads", False, count, thread)
        for thread in threads
        for count in workers
    ]


def require() -> None:
    """Raise a `ConfigError` with the command to type if TRL is not installed."""
    if importlib.util.find_spec("trl") is None:
        raise ConfigError("TRL is not installed here. Install it with: pip install -e '.[bench]'")


def read_spec(bundle: Path) -> dict[str, Any]:
    """The bundle's plain values."""
    return json.loads((bundle / "spec.json").read_text(encoding="utf-8"))


def load_model(bundle: Path) -> PeftModel:
    """The frozen base with the bundle's fresh adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    spec = read_spec(bundle)
    base = AutoModelForImageTextToText.from_pretrained(
        spec["checkpoint"],
        revision=spec["revision"],
        dtype=getattr(torch, spec["dtype"]),
        attn_implementation=spec["attn_implementation"],
    )
    base.requires_grad_(False)
    return PeftModel.from_pretrained(base, str(bundle / "adapter"), is_trainable=True)


def make_trainer(bundle: Path, settings: Settings, steps: int, output: Path) -> SFTTrainer:
    """TRL's trainer over a bundle. Precision is the checkpoint's: TRL's own default, bfloat16 autocast, is another arithmetic."""
    import torch
    import transformers
    from datasets import load_from_disk
    from transformers import AutoProcessor, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    spec = read_spec(bundle)
    on_cpu = spec["accelerator"] == "cpu" or not torch.cuda.is_available()
    arguments = SFTConfig(
        output_dir=str(output),
        use_cpu=on_cpu,
        bf16=False,
        max_steps=steps,
        per_device_train_batch_size=spec["batch_size"],
        per_device_eval_batch_size=spec["eval_batch_size"],
        gradient_accumulation_steps=spec["accumulate"],
        learning_rate=spec["lr"],
        lr_scheduler_type=spec["schedule"],
        adam_beta1=spec["betas"][0],
        adam_beta2=spec["betas"][1],
        weight_decay=spec["weight_decay"],
        max_grad_norm=spec["clip"],
        train_sampling_strategy="sequential",  # the rows are in our order already
        seed=spec["seed"],
        gradient_checkpointing=settings.checkpointing,
        dataloader_num_workers=settings.workers,
        dataloader_pin_memory=not on_cpu,
        max_length=None,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=load_model(bundle),
        args=arguments,
        train_dataset=load_from_disk(bundle / "train"),
        eval_dataset=load_from_disk(bundle / "dev"),
        processing_class=AutoProcessor.from_pretrained(bundle / "processor"),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@dataclass(frozen=True)
class TrlArm:
    """One arm through TRL, to be interleaved with ours."""

    bundle: Path
    settings: Settings

    def open(self) -> Callable[[int], Round]:
        """Import everything; each round loads the model anew, as its forward is patched by the trainer."""
        import torch

        torch.set_num_threads(self.settings.threads)
        load_model(self.bundle)
        return lambda steps: one_round(self.bundle, self.settings, steps)


def one_round(bundle: Path, settings: Settings, steps: int) -> Round:
    """Steps of TRL's own loop after a fresh start, timed where each ends."""
    from transformers import TrainerCallback

    losses: list[torch.Tensor] = []
    ends: list[float] = []

    class Clock(TrainerCallback):
        """Notes when an optimizer step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory(prefix="lab-bench-") as output:
        trainer = make_trainer(bundle, settings, WARM_UP + steps, Path(output))
        trainer.add_callback(Clock)
        plain = trainer.training_step

        def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss = plain(*args, **kwargs)
            losses.append(loss.detach())
            return loss

        trainer.training_step = noted
        trainer.train()
    accumulate = read_spec(bundle)["accumulate"]
    floats = [loss.item() for loss in losses]
    sums = [sum(floats[i : i + accumulate]) for i in range(0, len(floats), accumulate)]
    return Round(differences(ends), sums)


def whole_arm(bundle: Path, settings: Settings, adapter: Path) -> dict[str, float]:
    """Train all steps, evaluate on dev with TRL's own metrics, save the adapter."""
    import torch

    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as output:
        trainer = make_trainer(bundle, settings, read_spec(bundle)["steps"], Path(output))
        trainer.train()
        metrics = trainer.evaluate()
        trainer.save_model(str(adapter))
    return {key: float(value) for key, value in metrics.items()}


def command(bundle: Path, settings: Settings, scratch: Path) -> list[str]:
    """What Python is told to run a whole arm in a process of its own."""
    flags = ["--checkpointing"] if settings.checkpointing else []
    flags += ["--workers", str(settings.workers), "--threads", str(settings.threads), "--adapter", f"{scratch}/trl-adapter"]
    return ["-m", "tools.bench.trl_baseline", str(bundle), *flags]


def main() -> int:
    """One whole arm in this process; prints its metrics as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench.trl_baseline", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--adapter", type=Path, required=True, help="where to save the trained adapter")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    settings = Settings("TRL", arguments.checkpointing, arguments.workers, arguments.threads)
    print(json.dumps(whole_arm(arguments.bundle, settings, arguments.adapter)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
