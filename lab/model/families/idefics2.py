"""Idefics2 (Laurençon et al. 2024, 2405.02246): HuggingFaceM4/idefics2-8b and -8b-chatty; module names of transformers 5."""

from dataclasses import replace

from lab.model.families import idefics3
from lab.model.family import Part, all_but
from lab.model.idefics2 import Idefics2

RESAMPLED = "its tokens are those of a resampler of its own"

FAMILY = replace(
    idefics3.FAMILY,
    name="idefics2",
    model_type="idefics2",
    components={"vision_config": ("idefics2_vision",), "text_config": ("mistral",)},
    classes=("Idefics2ForConditionalGeneration",),
    architecture=Idefics2(),
    refuses={
        "numbered": idefics3.FAMILY.refuses["numbered"],
        "trees": "a picture that is split is several runs of tokens, and such rows are written for pictures that are one",
        **all_but("vision_tokens", ("native",), RESAMPLED),
        **all_but("conditioning", ("prefix",), idefics3.FAMILY.refuses["conditioning=cross_attention"]),
    },
    parts=idefics3.FAMILY.parts
    | {
        "projector": Part(
            modules=r"model\.connector(\..+)?",
            block=r"model\.connector\.perceiver_resampler\.layers\.(\d+)",
            attention=idefics3.FAMILY.parts["llm"].attention,
            mlp=idefics3.FAMILY.parts["llm"].mlp,
            linears=r"model\.connector\.modality_projection\.(gate|up|down)_proj",
        ),
    },
)
