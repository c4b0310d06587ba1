"""Adapter files: what is saved is exactly what is loaded, and a file that would do nothing is an error."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_families import logits, move, sample

from lab import lora, model
from lab.artifacts import adapter
from lab.config import LoraDial, ModelDial
from lab.errors import ModelError
from lab.model import Vlm


@pytest.fixture(scope="module")
def dial(tmp_path_factory: pytest.TempPathFactory) -> ModelDial:
    return checkpoints.save("qwen2_vl", tmp_path_factory.mktemp("adapter") / "qwen2_vl")


@pytest.fixture
def vlm(dial: ModelDial) -> Vlm:
    return model.load(dial)


@pytest.fixture
def saved(dial: ModelDial, tmp_path: Path) -> Path:
    """The folder of a moved adapter of rank 2 on the language model."""
    arm = model.load(dial)
    lora.attach(arm, LoraDial(r=2))
    move(arm)
    adapter.save(arm, tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(folder: Path, change) -> None:
    path = folder / adapter.PEFT_WEIGHTS
    save_file(change(load_file(path)), path)


def test_only_the_adapter_is_saved(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {"README.md", "adapter_config.json", adapter.PEFT_WEIGHTS}
    tensors = load_file(saved / adapter.PEFT_WEIGHTS)
    assert len(tensors) == 2 * 3 * 7
    assert all("lora_" in name for name in tensors)


def test_a_loaded_adapter_is_frozen(vlm: Vlm, saved: Path) -> None:
    adapter.load(vlm, saved)
    assert not lora.trainable(vlm)


def test_extra_modules_travel_beside_the_adapter(dial: ModelDial, tmp_path: Path) -> None:
    """With and without LoRA, and only into modules of the same names and shapes."""
    arm, again = model.load(dial), model.load(dial)
    arm.extras["resampler"] = torch.nn.Linear(3, 2)
    again.extras["resampler"] = torch.nn.Linear(3, 2)
    adapter.save(arm, tmp_path)
    adapter.load(again, tmp_path)
    assert torch.equal(again.extras["resampler"].weight, arm.extras["resampler"].weight)
    with pytest.raises(ModelError, match="not those of the installed modules"):
        adapter.load(model.load(dial), tmp_path)


def test_an_untrained_adapter_is_refused(vlm: Vlm, tmp_path: Path) -> None:
    arm = vlm
    lora.attach(arm, LoraDial(r=2))
    adapter.save(arm, tmp_path)
    lora.detach(arm)
    with pytest.raises(ModelError, match="B A = 0 in every layer"):
        adapter.load(vlm, tmp_path)


def test_emptied_matrices_are_refused(vlm: Vlm, saved: Path) -> None:
    rewrite(saved, lambda tensors: {name: t * 0 if "lora_A" in name else t for name, t in tensors.items()})
    with pytest.raises(ModelError, match="B A = 0 in every layer"):
        adapter.load(vlm, saved)


def test_one_living_layer_is_enough(vlm: Vlm, saved: Path) -> None:
    rewrite(saved, lambda tensors: {name: t if "layers.1.mlp.up_proj" in name else t * 0 for name, t in tensors.items()})
    bare = logits(vlm, [sample(0, ragged=False)])
    adapter.load(vlm, saved)
    assert not torch.equal(logits(vlm, [sample(0, ragged=False)]), bare)


def test_renamed_keys_are_refused(vlm: Vlm, saved: Path) -> None:
    """colpali 424, vllm 39369: after a rename the base answers and nobody says so."""
    rewrite(saved, lambda tensors: {name.replace("language_model.", ""): t for name, t in tensors.items()})
    with pytest.raises(ModelError, match="have no place"):
        adapter.load(vlm, saved)


def test_a_missing_tensor_is_refused(vlm: Vlm, saved: Path) -> None:
    def without_one(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(sorted(tensors.items())[1:])

    rewrite(saved, without_one)
    with pytest.raises(ModelError, match="1 places no tensor"):
        adapter.load(vlm, saved)


def test_another_base_is_refused(vlm: Vlm, tmp_path: Path) -> None:
    """The towers of two families share some names: an adapter that fits half of a model does not fit it."""
    lora.attach(vlm, LoraDial(r=2, where=["vision"]))
    move(vlm)
    adapter.save(vlm, tmp_path / "adapter")
    other = model.load(checkpoints.save("qwen3_vl", tmp_path / "other"))
    with pytest.raises(ModelError, match="does not fit this model"):
        adapter.load(other, tmp_path / "adapter")


def test_an_empty_folder_is_refused(vlm: Vlm, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="safetensors only"):
        adapter.load(vlm, tmp_path)
