"""BLIP for visual question answering (Li et al. 2022, 2201.12086): Salesforce/blip-vqa-base and -capfilt-large; names of transformers 5.

The output head shares its weights with the decoder's word embeddings. The presets leave it out, as PEFT's `all-linear` does not; a
pattern of one's own may name it, and it is untied before it is merged.
"""

from lab.model.blip import Blip
from lab.model.family import NOTHING, Family, Part, all_but

ATTENTION = ("self.query", "self.key", "self.value", "output.dense")

FAMILY = Family(
    name="blip_vqa",
    model_type="blip",
    classes=("BlipForQuestionAnswering",),
    attention=("eager",),
    answers="beside",
    architecture=Blip(),
    surplus=r"text_(encoder|decoder\.bert)\.embeddings\.position_ids",
    refuses={
        "numbered": "no image stands in its prompt to be numbered",
        **all_but("vision_tokens", ("native",), "its tower takes images of one size, whose states its text encoder attends to"),
        **all_but("conditioning", ("add_cross_attention",), "images enter it by its text encoder's own cross-attention"),
    },
    parts={
        "projector": Part(modules=NOTHING),
        "vision": Part(
            modules=r"vision_model(\..+)?",
            block=r"vision_model\.encoder\.layers\.(\d+)",
            attention=("self_attn.qkv", "self_attn.projection"),
            mlp=("mlp.fc1", "mlp.fc2"),
        ),
        "llm": Part(
            modules=r"text_(encoder|decoder)(\..+)?",
            block=r"(?:text_encoder|text_decoder\.bert)\.encoder\.layer\.(\d+)",
            attention=tuple(f"{place}.{name}" for place in ("attention", "crossattention") for name in ATTENTION),
            mlp=("intermediate.dense", "output.dense"),
            linears=r"text_decoder\.cls\.predictions\.transform\.dense",
        ),
    },
)
