"""InstructBLIP with a T5 (Dai et al. 2023, 2305.06500): Salesforce/instructblip-flan-t5-xl and -xxl; module names of transformers 5.

The question's branch of the Q-Former's last block feeds nothing: adapters on its `intermediate.dense` and `output.dense` (lora.where with
projector) are counted and never get a gradient.
"""

from dataclasses import replace

from lab.model.families import blip2_t5
from lab.model.qformer import InstructQFormerT5

QFORMER = blip2_t5.FAMILY.parts["projector"]

FAMILY = replace(
    blip2_t5.FAMILY,
    name="instructblip_t5",
    model_type="instructblip",
    classes=("InstructBlipForConditionalGeneration",),
    architecture=InstructQFormerT5(),
    surplus=r"qformer\.embeddings\.position_ids",
    refuses=blip2_t5.FAMILY.refuses | {"feature_cache": "its Q-Former reads the question, so an image's features are that question's"},
    parts=blip2_t5.FAMILY.parts | {"projector": replace(QFORMER, mlp=(*QFORMER.mlp, "intermediate.dense", "output.dense"))},
)
