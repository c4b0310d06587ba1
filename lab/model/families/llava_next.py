"""LLaVA-NeXT (Liu et al. 2024): llava-hf/llava-v1.6-mistral-7b-hf, -vicuna-7b-hf, -34b-hf, llama3-llava-next-8b-hf; names of transformers 5.

As in LLaVA-1.5, adapters on the tower's last block are counted and never get a gradient.
"""

from dataclasses import replace

from lab.model.families import llava
from lab.model.family import Part, all_but
from lab.model.llava_next import LlavaNext

FAMILY = replace(
    llava.FAMILY,
    name="llava_next",
    model_type="llava_next",
    components={"vision_config": ("clip_vision_model", "siglip_vision_model"), "text_config": ("llama", "mistral", "qwen2")},
    classes=("LlavaNextForConditionalGeneration",),
    architecture=LlavaNext(),
    refuses={
        **llava.FAMILY.refuses,
        "trees": "its pictures cost tokens by their size, and such rows are written for pictures of one run of patches",
        **all_but("vision_tokens", ("native",), "its tokens of a picture are the whole's, the tiles' and the ends of lines, which is no grid"),
    },
    parts={
        **llava.FAMILY.parts,
        "projector": Part(modules=r"model\.multi_modal_projector(\..+)?|model\.image_newline", linears=llava.FAMILY.parts["projector"].linears),
    },
)
