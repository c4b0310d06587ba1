"""InstructBLIP with a Vicuna (Dai et al. 2023, 2305.06500): Salesforce/instructblip-vicuna-7b and -13b; module names of transformers 5.

What is said in `instructblip_t5` of adapters on the Q-Former's last block holds here too.
"""

from dataclasses import replace

from lab.model.families import blip2_opt, instructblip_t5, qwen2_vl
from lab.model.qformer import InstructQFormerDecoder

FAMILY = replace(
    instructblip_t5.FAMILY,
    name="instructblip_vicuna",
    components={"text_config": ("llama",)},
    answers="inline",
    architecture=InstructQFormerDecoder("{}"),
    refuses={
        **instructblip_t5.FAMILY.refuses,
        **blip2_opt.REFUSES,
        "shared_prefix": "its images are read with the question, so two questions share nothing",
    },
    parts=instructblip_t5.FAMILY.parts
    | {"llm": replace(qwen2_vl.FAMILY.parts["llm"], modules=r"language_model(\..+)?", block=r"language_model\.model\.layers\.(\d+)")},
)
