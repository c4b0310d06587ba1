"""Qwen3-VL (Bai et al. 2025, 2511.21631): features of several tower blocks enter the first language-model blocks.

This is DeepStack (Meng et al. 2024, 2406.04334). Its mergers carry vision to the language model as the merger does, so
they are `projector`. Module names of transformers 5.
"""

from lab.model.family import Family, Limit, Part

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
        "vision": Part(
            modules=r"model\.visual(\..+)?",
            block=r"model\.visual\.blocks\.(\d+)",
            attention=("attn.qkv", "attn.proj"),
            mlp=("mlp.linear_fc1", "mlp.linear_fc2"),
        ),
        "llm": Part(
            modules=r"model\.language_model(\..+)?|lm_head",
            block=r"model\.language_model\.layers\.(\d+)",
            attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
            mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        ),
    },
)
