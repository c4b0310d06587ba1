"""SmolVLM2 (Marafioti et al. 2025, 2504.05299): HuggingFaceTB/SmolVLM2-2.2B-Instruct, -500M and -256M, which see pictures alone here.

The first SmolVLM (HuggingFaceTB/SmolVLM-Instruct) is published as an Idefics3, and is `idefics3`. Names of transformers 5.
"""

from dataclasses import replace

from lab.model.families import idefics3

FAMILY = replace(
    idefics3.FAMILY,
    name="smolvlm",
    model_type="smolvlm",
    components={"vision_config": ("smolvlm_vision",), "text_config": ("llama",)},
    classes=("SmolVLMForConditionalGeneration",),
    packages=("num2words",),
)
