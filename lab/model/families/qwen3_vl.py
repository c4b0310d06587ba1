"""Qwen3-VL (Bai et al. 2025, 2511.21631): features of several tower blocks enter the first language-model blocks.

This is DeepStack (Meng et al. 2024, 2406.04334). Its mergers carry vision to the language model as the merger does, so
they are `projector`. Module names of transformers 5.
"""

from dataclasses import replace

from lab.model.families import qwen2_vl
from lab.model.family import Family, Limit, Part

QWEN2 = qwen2_vl.FAMILY.parts
DEEPSTACK = "its tower speaks to several blocks of the language model (DeepStack), so one tensor does not stand for an image"

FAMILY = Family(
    name="qwen3_vl",
    model_type="qwen3_vl",
    single_output=False,
    limits={
        "vision_tokens": Limit(("native", "resize"), DEEPSTACK),
        "conditioning": Limit(("prefix",), DEEPSTACK),
    },
    parts={
        "projector": Part(
            modules=r"model\.visual\.(merger|deepstack_merger_list)(\..+)?",
            linears=r"model\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc(1|2)",
        ),
        "vision": replace(QWEN2["vision"], mlp=("mlp.linear_fc1", "mlp.linear_fc2")),
        "llm": replace(QWEN2["llm"], llama_blocks=False),
    },
)
