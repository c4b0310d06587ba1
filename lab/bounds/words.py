"""The words of every key that takes one of a few. Light."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from lab.config import PARTS


@dataclasses.dataclass(frozen=True)
class Words:
    """A key that takes one of a few words. also: a regular expression for more, as `also_told` writes it.

    refused: words that are known, and why they cannot be had.
    """

    legal: tuple[str, ...]
    also: str | None = None
    also_told: str = ""
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def hold(self, value: str) -> bool:
        """Whether a word is legal."""
        return value in self.legal or (self.also is not None and re.fullmatch(self.also, value, re.ASCII) is not None)


NEEDS_DATA = "it needs activations of training data before the adapter exists"
WORDS: dict[str, Words] = {
    "model.attn_implementation": Words(("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")),
    "model.device_map": Words(("auto", "balanced", "balanced_low_0", "sequential")),
    "optim.optimizer": Words(
        (
            "AdamW", "Adam", "Adamax", "NAdam", "RAdam", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adafactor",
            "AdamW8bit", "PagedAdamW", "PagedAdamW8bit",
        ),
        refused={
            "LBFGS": "it asks for several forward passes a step",
            "SparseAdam": "gradients here are dense",
            "Muon": "it takes matrices alone, and modules that dials add have vectors too",
        },
    ),
    "data.difficulty": Words(("easy", "medium", "hard")),
    "data.image_layout": Words(("whole", "boxes")),
    "vision_tokens.name": Words(("native", "resize", "pool", "resampler", "prune", "merge")),
    "conditioning.name": Words(("prefix", "cross_attention", "add_cross_attention")),
    "lora.where": Words(PARTS),
    "lora.full": Words((*PARTS, "head")),
    "lora.init_lora_weights": Words(
        ("default", "gaussian", "orthogonal", "mica", "pissa", "olora"),
        also=r"pissa_niter_[1-9]\d{0,3}",
        also_told="pissa_niter_N",
        refused={
            "loftq": "PEFT computes it with bitsandbytes on a GPU from a base that is not quantised yet",
            "eva": NEEDS_DATA,
            "corda": NEEDS_DATA,
            "lora_ga": "it needs gradients of training data before the adapter exists",
        },
    ),
    "trainer.strategy": Words(
        ("auto", "ddp", "fsdp"),
        refused={"deepspeed": "it is not used here. fsdp shards weights, gradients and optimizer state, as ZeRO's stage 3 does"},
    ),
    "trainer.accelerator": Words(("auto", "cpu", "gpu", "cuda", "mps")),
    "trainer.max_time": Words((), also=r"\d{1,6}:[0-5]\d:[0-5]\d", also_told="hours, minutes, seconds, as in 11:45:00"),
    "prompt.post": Words(("none", "lower", "squad", "vqa", "blip", "llava", "qwen")),
    "prompt.boxes": Words(("qwen2", "qwen2_5", "qwen3", "paligemma", "click", "json")),
    "data.rule": Words(("winoground",)),
    "data.profile": Words(("ours", "lmms", "vlmevalkit")),
    "data.sha256": Words((), also=r"[0-9a-f]{64}", also_told="64 hexadecimal digits"),
    "data.kind": Words(("text",)),
    "data.exif": Words(("shown", "stored")),
    "data.empty": Words(("reviewed", "unlabelled")),
    "data.loss_on": Words(("every", "last", "each")),
    "data.order": Words(("random", "by_image")),
    "trainer.layout": Words(("rows", "trees", "auto")),
    "data.answer_format": Words(("text", "letter", "index0", "index1")),
    "evaluation.ask": Words(("score", "generate")),
    "evaluation.splits": Words(("train", "minival", "dev")),
    "evaluation.controls": Words(("blank", "shuffled", "text_only")),
}
"""Of every text that is one of a few words, or a list of them. Enumerations are OmegaConf's affair."""


def allow(key: str, word: str) -> None:
    """Make a word legal that came from outside."""
    WORDS[key] = dataclasses.replace(WORDS[key], legal=(*WORDS[key].legal, word))
