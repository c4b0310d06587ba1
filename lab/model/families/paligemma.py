"""PaliGemma with Gemma (Beyer et al. 2024, 2407.07726): google/paligemma-3b-ft-nlvr2-448, -pt-224 and their like; names of transformers 5.

Fine-tunes for NLVR2 were asked "answer en ..." (prompt=paligemma), with two pictures and True or False
(big_vision, configs/proj/paligemma/transfers/nlvr2.py).
"""

from lab.model.families import llava, qwen2_vl
from lab.model.family import Family, Part, all_but
from lab.model.paligemma import PaliGemma

BOTH_WAYS = "all of its prompt is read at once, in both directions"

FAMILY = Family(
    name="paligemma",
    model_type="paligemma",
    components={"vision_config": ("siglip_vision_model",), "text_config": ("gemma",)},
    classes=("PaliGemmaForConditionalGeneration",),
    attention=("sdpa", "eager"),
    boxes="paligemma",
    architecture=PaliGemma(),
    surplus=r".*(position_ids|inv_freq)",
    refuses={
        "numbered": "its checkpoints have no chat template to number images",
        "fast_step": BOTH_WAYS,
        "shared_prefix": f"{BOTH_WAYS}, so two questions share nothing",
        "vision_tokens=resize": "its tower takes images of one size",
        **all_but("conditioning", ("prefix",), "cross-attention of one's own is written for the positions of Qwen-VL"),
    },
    parts={
        "projector": Part(modules=r"model\.multi_modal_projector(\..+)?", linears=r"model\.multi_modal_projector\.linear"),
        "vision": llava.FAMILY.parts["vision"],
        "llm": qwen2_vl.FAMILY.parts["llm"],
    },
)
