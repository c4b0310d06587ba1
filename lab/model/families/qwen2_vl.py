"""Qwen2-VL (Wang et al. 2024, 2409.12191): module names of transformers 5."""

from lab.model.family import Family, Part

NO_FLAG = (
    "only decoders of GPT-2's and BERT's kind have Hugging Face's add_cross_attention, and this one has not; "
    "conditioning=cross_attention builds gated cross-attention into any decoder"
)
FAMILY = Family(
    name="qwen2_vl",
    model_type="qwen2_vl",
    classes=("Qwen2VLForConditionalGeneration",),
    boxes="qwen2",
    refuses={"conditioning=add_cross_attention": NO_FLAG},
    parts={
        "projector": Part(
            modules=r"model\.visual\.merger(\..+)?",
            linears=r"model\.visual\.merger\.mlp\.(0|2)",
        ),
        "vision": Part(
            modules=r"model\.visual(\..+)?",
            block=r"model\.visual\.blocks\.(\d+)",
            attention=("attn.qkv", "attn.proj"),
            mlp=("mlp.fc1", "mlp.fc2"),
        ),
        "llm": Part(
            modules=r"model\.language_model(\..+)?|lm_head",
            block=r"model\.language_model\.layers\.(\d+)",
            attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
            mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        ),
    },
)
