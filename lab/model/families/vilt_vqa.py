"""ViLT for visual question answering (Kim et al. 2021, 2102.03334): dandelin/vilt-b32-finetuned-vqa; module names of transformers 5.

It chooses among the labels of its config, 3,129 frequent answers of VQAv2, and writes nothing.
"""

from lab.model.family import NOTHING, Family, Part, all_but
from lab.model.vilt import Vilt

FAMILY = Family(
    name="vilt_vqa",
    model_type="vilt",
    classes=("ViltForQuestionAnswering",),
    attention=("eager",),
    answers="classes",
    abilities=("classify",),
    architecture=Vilt(),
    whole={"head": "classifier"},
    last="classifier.3",
    surplus=r"vilt\.embeddings\.text_embeddings\.position_ids",
    refuses={
        "numbered": "no image stands in its prompt to be numbered",
        **all_but("vision_tokens", ("native",), "one encoder reads words and patches, with nothing between a tower and a language model"),
        **all_but("conditioning", ("prefix",), "one encoder reads words and patches together"),
    },
    parts={
        "projector": Part(modules=NOTHING),
        "vision": Part(modules=r"vilt\.embeddings\.(patch_embeddings|cls_token|position_embeddings)(\..+)?"),
        "llm": Part(
            modules=r"(vilt|classifier)(\..+)?",
            block=r"vilt\.encoder\.layer\.(\d+)",
            attention=("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
            mlp=("intermediate.dense", "output.dense"),
            linears=r"vilt\.pooler\.dense|classifier\.(0|3)",
        ),
    },
)
