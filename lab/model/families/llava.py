"""LLaVA-1.5 (Liu et al. 2023, 2310.03744): llava-hf/llava-1.5-7b-hf and what was quantised of it; module names of transformers 5.

Its features are those of the tower's last block but one (`vision_feature_layer`): adapters on the last block (lora.where with vision) are
counted and never get a gradient. Other towers and language models than LLaVA-1.5's are those of `lab.model.assembled`; the tower's block
is named `layers` in CLIP's and SigLIP's, `layer` in DINOv2's.
"""

from lab.model.families import qwen2_vl
from lab.model.family import Family, Part, all_but
from lab.model.llava import Llava

FAMILY = Family(
    name="llava",
    model_type="llava",
    components={
        "vision_config": ("clip_vision_model", "siglip_vision_model", "dinov2"),
        "text_config": ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text"),
    },
    classes=("LlavaForConditionalGeneration",),
    architecture=Llava(),
    surplus=r".*(position_ids|inv_freq)",
    refuses={
        "numbered": "its chat template does not number images",
        "vision_tokens=resize": "its tower takes images of one size",
        **all_but("conditioning", ("prefix",), "cross-attention of one's own is written for the positions of Qwen-VL"),
    },
    parts={
        "projector": Part(modules=r"model\.multi_modal_projector(\..+)?", linears=r"model\.multi_modal_projector\.linear_(1|2)"),
        "vision": Part(
            modules=r"model\.vision_tower(\..+)?",
            block=r"model\.vision_tower\.encoder\.(?:layers|layer)\.(\d+)",
            attention=(
                "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
                "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj",
            ),
            mlp=("mlp.fc1", "mlp.fc2", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        ),
        "llm": qwen2_vl.FAMILY.parts["llm"],
    },
)
