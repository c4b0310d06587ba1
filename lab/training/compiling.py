"""`trainer.torch_compile`: the language model's blocks through `torch.compile` while they train.

Each block is compiled by itself, for rows of any length, so that the first step pays for blocks and not for the whole model. The step is then
PEFT's and Transformers' own: what `lab.training.fast` writes out by hand would be compiled around. Losses differ by rounding
(tests/test_compiling.py). Validation, and what is measured once training has ended, goes through the blocks as they were.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from typing import Any

import lightning as L

from lab.conditioning import decoder_blocks
from lab.config import Experiment
from lab.errors import ConfigError
from lab.training import devices
from lab.training.callbacks import WhileTraining
from lab.training.learner import Learner

log = logging.getLogger(__name__)


def check(x: Experiment) -> None:
    """Raise a `ConfigError` where `trainer.torch_compile` compiles no blocks, before anything loads."""
    compiler, on_gpu = os.environ.get("CXX", "g++"), devices.on_gpu(x.trainer)
    reasons = {
        "trainer.strategy=fsdp: a block's weights are gathered around its forward, which would be compiled without them. Set trainer.strategy=ddp": (
            x.trainer.sharded
        ),
        f"model.device_map={x.model.device_map}: accelerate moves what a block reads from device to device around its forward. "
        "Set model.device_map=null": x.model.device_map is not None,
        f"model.quantisation={x.model.quantisation.value}: bitsandbytes' products are not compiled, so nothing would be gained. "
        "Set model.quantisation=none": x.model.quantisation.value != "none",
        f"on a CPU PyTorch compiles with a C++ compiler, and there is no {compiler} here. Install one (apt-get install g++)": (
            not on_gpu and shutil.which(compiler) is None
        ),
        "on a GPU PyTorch compiles with Triton, which is not installed. Install it: pip install triton": (
            on_gpu and importlib.util.find_spec("triton") is None
        ),
    }
    if why := next((reason for reason, holds in reasons.items() if holds), None):
        raise ConfigError(f"trainer.torch_compile=true, {why}, or trainer.torch_compile=false.")


class CompiledBlocks(WhileTraining):
    """Compiles the blocks of the language model for training steps, and says what the first forward took, which compiles, and the second.

    facts: of the run, to which it adds both, in seconds.
    """

    def __init__(self, learner: Learner, facts: dict[str, Any]) -> None:
        self.learner = learner
        self.blocks: list[Any] = decoder_blocks(learner.vlm)
        self.compiled: list[Any] = []
        self.facts, self.ends = facts, [0.0]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log.info("trainer.torch_compile=true: %d blocks are compiled in the first step, which takes minutes; train/seconds has it", len(self.blocks))
        for block in self.blocks:
            block.compile(dynamic=True)
        self.compiled = [block._compiled_call_impl for block in self.blocks]
        self.put()
        self.ends = [devices.now(pl_module.device)]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(self.ends) >= 3:
            return
        self.ends.append(devices.now(pl_module.device))
        if len(self.ends) == 3:
            first, second = self.ends[1] - self.ends[0], self.ends[2] - self.ends[1]
            self.facts["torch_compile"] = {"first_forward_s": first, "second_forward_s": second}
            log.info("trainer.torch_compile: the first forward and its backward took %.1f s, the second %.2f s", first, second)

    def put(self) -> None:
        """Have blocks called as they are compiled; the step is theirs, not `lab.training.fast`'s."""
        self.learner.fused.unused = True
        self.call(self.compiled)

    def take_away(self) -> None:
        """Have blocks called as they are."""
        self.learner.fused.unused = False
        self.call([None] * len(self.blocks))

    def call(self, compiled: list[Any]) -> None:
        """Have blocks called as they are compiled, or as they are (None)."""
        for block, each in zip(self.blocks, compiled, strict=False):
            block._compiled_call_impl = each
