"""Idefics3 (Laurençon et al. 2024, 2408.12637): HuggingFaceM4/Idefics3-8B-Llama3, HuggingFaceTB/SmolVLM-Instruct; module names of transformers 5."""

from lab.model.families import llava, qwen2_vl
from lab.model.family import Family, Part, all_but
from lab.model.tiles import Tiled

FAMILY = Family(
    name="idefics3",
    model_type="idefics3",
    components={"vision_config": ("idefics3_vision",), "text_config": ("llama",)},
    classes=("Idefics3ForConditionalGeneration",),
    architecture=Tiled(),
    surplus=r".*(position_ids|inv_freq)",
    refuses={
        "numbered": "its chat template does not number images",
        "trees": "its pictures are cut in tiles, and such rows are written for pictures that are one run of tokens",
        **all_but("vision_tokens", ("native",), "its pictures are cut in tiles, whose places its prompt names"),
        **all_but("conditioning", ("prefix",), "cross-attention of one's own is written for the positions of Qwen-VL"),
    },
    parts={
        "projector": Part(modules=r"model\.connector(\..+)?", linears=r"model\.connector\.modality_projection\.proj"),
        "vision": Part(
            modules=r"model\.vision_model(\..+)?",
            block=r"model\.vision_model\.encoder\.layers\.(\d+)",
            attention=llava.FAMILY.parts["vision"].attention[:4],
            mlp=("mlp.fc1", "mlp.fc2"),
        ),
        "llm": Part(
            modules=r"model\.text_model(\..+)?|lm_head",
            block=r"model\.text_model\.layers\.(\d+)",
            attention=qwen2_vl.FAMILY.parts["llm"].attention,
            mlp=qwen2_vl.FAMILY.parts["llm"].mlp,
        ),
    },
)
