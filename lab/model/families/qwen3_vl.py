"""Qwen3-VL (Bai et al. 2025, 2511.21631): features of several tower blocks enter the first language-model blocks.

This is DeepStack (Meng et al. 2024, 2406.04334). Its mergers carry vision to the language model as the merger does, so
they are `projector`. Module names of transformers 5.
"""

from dataclasses import replace

from lab.model.clips import CaptionedClips
from lab.model.families import qwen2_vl
from lab.model.family import Family, Part, all_but
from lab.model.qwen_vl import QwenVL

QWEN2 = qwen2_vl.FAMILY.parts
DEEPSTACK = "its tower speaks to several blocks of the language model (DeepStack), so one tensor does not stand for an image"

FAMILY = Family(
    name="qwen3_vl",
    model_type="qwen3_vl",
    classes=("Qwen3VLForConditionalGeneration",),
    boxes="qwen3",
    architecture=QwenVL(CaptionedClips()),
    refuses={
        "feature_cache": DEEPSTACK,
        "fast_step": "its blocks normalise queries and keys, as Llama's do not",
        **all_but("vision_tokens", ("native", "resize"), DEEPSTACK),
        **all_but("conditioning", ("prefix",), DEEPSTACK),
    },
    parts={
        "projector": Part(
            modules=r"model\.visual\.(merger|deepstack_merger_list)(\..+)?",
            linears=r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc(1|2)",
        ),
        "vision": replace(QWEN2["vision"], mlp=("mlp.linear_fc1", "mlp.linear_fc2")),
        "llm": QWEN2["llm"],
    },
)
