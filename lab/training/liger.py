"""`trainer.use_liger_kernel`: RMSNorms and gated feed-forwards of the language model's blocks through liger-kernel while they train.

Its Triton kernels read and write each once, and keep less for the backward. Liger's loss is left out, because logits are computed at
labelled rows alone, and its rotary embedding, because it would be put in place of Transformers' for every model of the process. Validation,
and what is measured once training has ended, goes through Transformers' own. Before the first step log p of labels must be that of the plain
step to rounding.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lab.conditioning import decoder_blocks
from lab.config import Experiment
from lab.errors import ConfigError, ModelError
from lab.model import Vlm
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.training import devices
from lab.training.callbacks import WhileTraining
from lab.training.fast.fused_step import Forward, FusedStep, is_rms_norm
from lab.training.learner import Learner
from lab.training.tree_rows import TOLERANCE, TOLERANCE_16, log_p

KEY = "trainer.use_liger_kernel"
INTERPRETED = "TRITON_INTERPRET"
"""Triton's variable: its kernels run in Python, on a CPU too, thousands of times as slowly."""


def check(x: Experiment) -> None:
    """Raise a `ConfigError` where `trainer.use_liger_kernel` puts no kernel in place, before anything loads."""
    reasons = {
        "liger-kernel is not installed. Install it: pip install 'vlm-lab[liger]'": importlib.util.find_spec("liger_kernel") is None,
        "Liger's kernels are compiled by Triton, for a GPU. Run where there is one (trainer.accelerator=gpu)": (
            not devices.on_gpu(x.trainer) and os.environ.get(INTERPRETED) != "1"
        ),
        "trainer.torch_compile=true: it would compile around the kernels. Set trainer.torch_compile=false": x.trainer.torch_compile,
        "trainer.strategy=fsdp: a block's weights are gathered around its forward. Set trainer.strategy=ddp": x.trainer.sharded,
        "model.fp32_layernorms=true: Liger's norms give what they are given, not float32. Set model.fp32_layernorms=false": (
            x.model.fp32_layernorms
        ),
    }
    if why := next((reason for reason, holds in reasons.items() if holds), None):
        raise ConfigError(f"{KEY}=true, {why}, or {KEY}=false.")


def kernels(vlm: Vlm) -> list[Forward]:
    """The modules of the language model's blocks that Liger has a kernel for, each with a forward that calls it; needs liger-kernel."""
    inside = [module for block in decoder_blocks(vlm) for module in block.modules()]
    norms: list[Forward] = [(module, partial(norm_forward, module)) for module in inside if is_rms_norm(module)]
    return norms + [(module, partial(mlp_forward, module)) for module in inside if is_gated(module)]


def require(vlm: Vlm) -> None:
    """Raise a `ConfigError` for a loaded model of which Liger has no kernel."""
    if not kernels(vlm):
        raise ConfigError(
            f"{KEY}=true, model.family={vlm.family.name}: Liger has kernels for RMSNorm and gated feed-forwards with SiLU, and the blocks of "
            f"this language model hold neither. Set {KEY}=false."
        )


def is_gated(module: Any) -> bool:
    """Whether a module is a feed-forward of three layers whose gate is SiLU."""
    from transformers.activations import SiLUActivation

    layers = all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj"))
    return layers and type(getattr(module, "act_fn", None)) in (nn.SiLU, SiLUActivation)


def norm_forward(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of an RMSNorm."""
    from liger_kernel.transformers.functional import liger_rms_norm

    return liger_rms_norm(x, norm.weight, norm.variance_epsilon)


def mlp_forward(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of a gated feed-forward."""
    from liger_kernel.transformers.functional import liger_swiglu

    return mlp.down_proj(liger_swiglu(mlp.gate_proj(x), mlp.up_proj(x)))


class LigerKernels(WhileTraining):
    """Puts Liger's forwards in place for training steps, recomputed ones too. facts: of the run, to which it adds what it has put in place."""

    def __init__(self, learner: Learner, facts: dict[str, Any]) -> None:
        self.learner, self.forwards = learner, kernels(learner.vlm)
        self.written_out, self.plain = learner.fused, FusedStep(learner.vlm, lean=False)
        self.facts: dict[str, float] = {"modules": len(self.forwards)}
        facts["liger"] = self.facts

    def held_to_plain(self, encoder: Encoder, examples: Sequence[Example]) -> None:
        """Note by how much log p of labels differs from the plain step's. Raises `ModelError` where that is no rounding."""
        learner, training = self.learner, self.learner.training
        if not learner.vlm.spread:
            learner.to(learner.vlm.device)
        batch = encoder.collate(list(examples), with_answers=True, learned=True)
        learner.eval()
        try:
            with torch.no_grad():
                own = log_p(learner, batch)
                self.put()
                gap = float((log_p(learner, batch) - own).abs().max())
        finally:
            self.take_away()
            learner.train(training)
        self.facts["gap"] = gap
        if not gap <= TOLERANCE.get(learner.vlm.dtype, TOLERANCE_16):
            raise ModelError(
                f"{KEY}=true: with Liger's kernels log p of an answer's token is another than without, by {gap:.2g} nats: this version of "
                f"liger-kernel does not compute what this checkpoint's blocks do. Set {KEY}=false."
            )

    def put(self) -> None:
        """Have modules called through Liger's kernels."""
        self.learner.fused = self.plain
        for module, forward in self.forwards:
            module.forward = forward

    def take_away(self) -> None:
        """Have modules called as they are."""
        self.learner.fused = self.written_out
        for module, _ in self.forwards:
            module.__dict__.pop("forward", None)  # the class's own shows again
