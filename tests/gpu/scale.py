"""How large the parts are, and the checkpoints and experiments that they use at that size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import checkpoints

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, ProcessorMixin

    from lab.config import Experiment

SIDE = 448
"""Pixels of every image at full scale: 32 x 32 patches of 14, 256 tokens."""


@dataclass(frozen=True)
class Scale:
    """Where a part runs and how wide its models are.

    device: `cuda` or `cpu`. small: models of 64 numbers and three blocks in place of the published widths. home: a folder for what
    the part writes.
    """

    device: str
    small: bool
    home: Path

    def checkpoint(self, family: str, size: str, num_layers: int = 28, depth: int = 32) -> Path:
        """A checkpoint of published widths with random weights in bfloat16 and so many blocks; `small`: of the family's shape."""
        folder = self.home / f"{family}-{size}"
        if self.small:
            checkpoints.save(family, folder)
            return folder
        processor = full_processor(family)
        config = checkpoints.real_config(family, size, num_layers, depth)
        for key, value in checkpoints.special_ids(processor.tokenizer).items():
            setattr(config, key, value)
        config.text_config.pad_token_id = processor.tokenizer.pad_token_id
        config.text_config.eos_token_id = processor.tokenizer.eos_token_id
        save_random(config, folder, self.device)
        processor.save_pretrained(folder)
        return folder

    def experiment(self, model: str, path: Path, *overrides: str, runs: str = "runs") -> Experiment:
        """The shipped YAML of a model on drawn pairs. runs: name of the folder for its run folders."""
        from lab.cli import compose
        from lab.sweeping.launcher import register

        register()
        return compose([*self.overrides(model, path, runs), *overrides])

    def overrides(self, model: str, path: Path, runs: str = "runs") -> list[str]:
        """What `experiment` gives on the command line."""
        return [
            f"model={model}", f"model.path={path}", "data.num_train=64", "data.num_minival=8", "data.num_dev=8", "optim.lr=1e-4",
            f"trainer.accelerator={'gpu' if self.device == 'cuda' else 'cpu'}", "evaluation.batch_size=8",
            "evaluation.latency_examples=1", "evaluation.latency_warmup=0", "evaluation.verify=false", "tracking.enabled=false",
            f"tracking.runs_dir={self.home / runs}", f"tracking.cache_dir={self.home / 'cache'}",
        ]  # fmt: skip


def full_processor(family: str) -> ProcessorMixin:
    """The tiny base's words around the family's own processor, with patches of the published size and `SIDE` pixels for every image."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    made = checkpoints.processor_of("qwen2_vl")
    size = {"shortest_edge": SIDE**2, "longest_edge": SIDE**2}
    kind = {"qwen2_vl": Qwen2VLProcessor, "qwen2_5_vl": Qwen2_5_VLProcessor}[family]
    return kind(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=made.tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=made.chat_template,
    )


def save_random(config: PretrainedConfig, folder: Path, device: str) -> None:
    """Draw a model on a device and write it in bfloat16: matrices normal with a deviation of 0.02, norms 1, biases 0."""
    import torch
    from transformers import AutoModelForImageTextToText

    config.dtype = torch.bfloat16
    with torch.device("meta"):
        whole: Any = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    whole.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            draw(name, parameter, generator)
    whole.tie_weights()
    whole.save_pretrained(folder)


def draw(name: str, parameter: torch.nn.Parameter, generator: torch.Generator) -> None:
    """Fill one parameter."""
    if name.endswith("bias"):
        parameter.zero_()
    elif parameter.ndim == 1:
        parameter.fill_(1.0)
    else:
        parameter.normal_(0.0, 0.02, generator=generator)
