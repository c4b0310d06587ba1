"""The recipes: what they train, counted from a published config.json alone, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lab import lora
from lab.costs import planning

CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "seed001_qwen": {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "hidden_size": 3584, "vocab_size": 152064,
        "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "image_token_id": 151655,
        "vision_config": {
            "model_type": "qwen2_5_vl", "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        },
    },
}  # fmt: skip
"""Of each recipe's checkpoint, what its published config.json says of sizes."""
COUNTED = {"seed001_qwen": (51_824_640, 8_343_991_296)}
"""Parameters that train, and all, as the study printed them."""


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with a config.json and nothing else."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[request.param]))
    return tmp_path


def counted(x: Any) -> tuple[int, int]:
    """Parameters that train, and all."""
    vlm = planning.on_meta(x)
    with torch.device("meta"):
        lora.attach(vlm, x.lora)
    rows = lora.ledger(vlm)
    return sum(row.trainable for row in rows), sum(row.total for row in rows)


@pytest.mark.parametrize(("recipe", "folder"), [(name, name) for name in COUNTED], indirect=["folder"])
def test_a_recipe_trains_what_the_study_counted(recipe: str, folder: Path, composer) -> None:
    assert counted(composer(f"recipe={recipe}", f"model.path={folder}")) == COUNTED[recipe]


def test_a_commands_own_keys_come_last(composer) -> None:
    x = composer("recipe=seed001_qwen", "optim.lr=1e-3", "model=tiny", "lora.r=4")
    assert (x.optim.lr, x.lora.r, x.lora.lora_alpha, x.model.name, x.trainer.max_steps) == (1e-3, 4, 32, "tiny", 5000)
