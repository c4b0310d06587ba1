"""PaliGemma 2 (Steiner et al. 2024, 2412.03555), whose language model is Gemma 2: google/paligemma2-3b-mix-448, -pt-224 and their like."""

from dataclasses import replace

from lab.model.families import paligemma

FAMILY = replace(
    paligemma.FAMILY,
    name="paligemma2",
    components={"vision_config": ("siglip_vision_model",), "text_config": ("gemma2",)},
    attention=("eager",),
)
