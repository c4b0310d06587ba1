"""Nothing of an arm stays behind where the rest of it moves to another device."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import run as running


@pytest.mark.parametrize("dial", ["vision_tokens=resampler", "conditioning=cross_attention"])
def test_a_reloaded_arm_is_on_one_device(composer, tiny_folder: Path, tmp_path: Path, dial: str) -> None:
    """PyTorch's `meta` stands for a GPU: it takes no memory, and is no CPU."""
    budget = ["vision_tokens.budget=4"] if dial.startswith("vision_tokens") else []
    x = composer(f"model.path={tiny_folder}", "lora=none", "trainer.max_steps=0", dial, *budget, f"tracking.cache_dir={tmp_path}")
    vlm = running.reload(x, tmp_path, "meta")
    modules = (vlm.model, *vlm.extras.values())
    assert len(modules) > 1
    assert {parameter.device.type for module in modules for parameter in module.parameters()} == {"meta"}
