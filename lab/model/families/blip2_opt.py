"""BLIP-2 with an OPT (Li et al. 2023, 2301.12597): Salesforce/blip2-opt-2.7b and -6.7b; module names of transformers 5."""

from dataclasses import replace

from lab.model.families import blip2_t5
from lab.model.family import Part, all_but
from lab.model.qformer import QFormerDecoder

SELF = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
REFUSES = blip2_t5.FAMILY.refuses | all_but("conditioning", ("prefix",), "cross-attention of one's own is written for the positions of Qwen-VL")

FAMILY = replace(
    blip2_t5.FAMILY,
    name="blip2_opt",
    components={"text_config": ("opt",)},
    answers="inline",
    architecture=QFormerDecoder("Question: {} Answer:"),
    refuses=REFUSES | {"fast_step": "its decoder's blocks are OPT's"},
    parts=blip2_t5.FAMILY.parts
    | {
        "llm": Part(
            modules=r"language_model(\..+)?", block=r"language_model\.model\.decoder\.layers\.(\d+)", attention=SELF, mlp=("fc1", "fc2")
        )
    },
)
