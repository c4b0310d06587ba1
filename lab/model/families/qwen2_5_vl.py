"""Qwen2.5-VL (Bai et al. 2025, 2502.13923): Qwen2-VL with window attention and a SwiGLU tower; module names of transformers 5."""

from dataclasses import replace

from lab.model.clips import TimedClips
from lab.model.families import qwen2_vl
from lab.model.qwen_vl import QwenVL

LLAMA_MLP = qwen2_vl.FAMILY.parts["llm"].mlp
VISION = replace(qwen2_vl.FAMILY.parts["vision"], mlp=LLAMA_MLP)
FAMILY = replace(
    qwen2_vl.FAMILY,
    name="qwen2_5_vl",
    model_type="qwen2_5_vl",
    classes=("Qwen2_5_VLForConditionalGeneration",),
    boxes="qwen2_5",
    architecture=QwenVL(TimedClips()),
    parts=qwen2_vl.FAMILY.parts | {"vision": VISION},
)
