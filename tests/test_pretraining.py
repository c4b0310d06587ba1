"""The tiny base can be made again."""

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tools.pretraining.__main__ import make
from tools.pretraining.recipe import BoxRound, Recipe, Round


def test_a_seed_makes_one_checkpoint_that_loads_like_any_other(tmp_path):
    """Every stage runs, the result is the same again to the bit, and loads by the path of every checkpoint."""
    recipe = Recipe(
        grounding_steps=1, grounding_images=2, words_steps=1, language_steps=1, words_pairs=2, language_pairs=2, branches=3,
        figures_steps=2, figures_pictures=2, figures_scenes=2, short_rounds=(Round(3, 0, 1, 2, True),), short_names=2,
        short_pictures=2, short_branches=6, boxes_rounds=(BoxRound(2, 0, 1, 1.0),), boxes_pictures=2,
    )  # fmt: skip
    for name in "ab":
        make(recipe, tmp_path / name)
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "a", dtype=torch.float32)
    assert type(model).__name__ == "Qwen2VLForConditionalGeneration"
    assert type(AutoProcessor.from_pretrained(tmp_path / "a")).__name__ == "Qwen2VLProcessor"
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert 1e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.9e6
