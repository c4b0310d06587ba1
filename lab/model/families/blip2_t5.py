"""BLIP-2 with a T5 (Li et al. 2023, 2301.12597): Salesforce/blip2-flan-t5-xl and -xxl; module names of transformers 5."""

from lab.model.families import blip_vqa
from lab.model.family import Family, Part, all_but
from lab.model.qformer import QFormerT5

SELF = tuple(f"layer.0.SelfAttention.{name}" for name in "qkvo")
CROSS = tuple(f"layer.1.EncDecAttention.{name}" for name in "qkvo")
QUERIES = "its Q-Former makes as many tokens of every image as it was trained to"
Q_NAMES = ("attention.query", "attention.key", "attention.value", "output.dense")
Q_ATTENTION = tuple(f"{place}.{name}" for place in ("attention", "crossattention") for name in Q_NAMES)

FAMILY = Family(
    name="blip2_t5",
    model_type="blip-2",
    components={"text_config": ("t5",)},
    classes=("Blip2ForConditionalGeneration",),
    attention=("sdpa", "eager"),
    answers="beside",
    architecture=QFormerT5(),
    surplus=r"qformer\.embeddings\.position_ids",
    refuses={
        "numbered": "its images stand before the prompt, without words between them",
        **all_but("vision_tokens", ("native",), QUERIES),
        **all_but("conditioning", ("prefix",), "its encoder reads images and words together"),
    },
    parts={
        "projector": Part(
            modules=r"(qformer|language_projection)(\..+)?|query_tokens",
            block=r"qformer\.encoder\.layer\.(\d+)",
            attention=Q_ATTENTION,
            mlp=("intermediate_query.dense", "output_query.dense"),
            linears=r"language_projection",
        ),
        "vision": blip_vqa.FAMILY.parts["vision"],
        "llm": Part(
            modules=r"language_model(\..+)?",
            block=r"language_model\.(?:encoder|decoder)\.block\.(\d+)",
            attention=SELF + CROSS,
            mlp=tuple(f"layer.{place}.DenseReluDense.{name}" for place in (1, 2) for name in ("wi_0", "wi_1", "wo")),
        ),
    },
)
