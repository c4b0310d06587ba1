"""Checkpoints are what their config says, in the class that it names; what is quantised on disk stays so."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import checkpoints
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lab import lora, model
from lab.config import DType, LoraDial, ModelDial, Quantisation
from lab.errors import ConfigError, ModelError
from lab.model import precision

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is an extra: pip install '.[quantised]'"
)


def edited(folder: Path, **values: object) -> None:
    """Change values of a folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.fixture(scope="module")
def dial(tmp_path_factory: pytest.TempPathFactory) -> ModelDial:
    return checkpoints.save("qwen2_vl", tmp_path_factory.mktemp("loading") / "plain")


def test_a_checkpoint_of_another_class_is_refused(tmp_path: Path) -> None:
    """An auto class would load what the two have in common."""
    dial = checkpoints.save("qwen2_vl", tmp_path)
    edited(tmp_path, architectures=["Qwen2VLForSequenceClassification"])
    with pytest.raises(ModelError, match="is a Qwen2VLForSequenceClassification, and this family's are Qwen2VLForConditionalGeneration"):
        model.load(dial)


def test_null_is_the_familys_own_attention(dial: ModelDial) -> None:
    assert dial.attn_implementation is None
    assert model.load(dial).base_model.config._attn_implementation == "sdpa"


@needs_bitsandbytes
@pytest.mark.parametrize("kind", [Quantisation.nf4, Quantisation.int8])
def test_a_quantised_checkpoint_is_read_as_it_was_written(dial: ModelDial, kind: Quantisation, tmp_path: Path) -> None:
    """Whatever its config lists as left alone: names of Transformers 4 match nothing in 5."""
    first = model.load(replace(dial, quantisation=kind))
    first.model.save_pretrained(tmp_path)
    first.processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    edited(tmp_path, quantization_config=settings | {"llm_int8_skip_modules": ["lm_head", "visual_of_old"]})
    asked = replace(dial, path=str(tmp_path), quantisation=kind)
    again = model.load(asked)
    packed = [{name: type(layer).__name__ for name, layer in vlm.base_model.named_modules()} for vlm in (first, again)]
    assert packed[0] == packed[1] and {"Linear4bit", "Linear8bitLt"} & set(packed[0].values())
    ids = torch.arange(5, 25)[None]
    stored = [layer.weight.data.clone() for layer in first.base_model.modules() if type(layer).__name__ == "Linear4bit"]
    with torch.inference_mode():
        assert torch.equal(*(vlm.base_model(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids)).logits for vlm in (first, again)))
    kept = [layer.weight.data for layer in first.base_model.modules() if type(layer).__name__ == "Linear4bit"]
    assert all(map(torch.equal, stored, kept)), "answers come from other weights than training's"
    lora.attach(again, LoraDial(r=2))
    with pytest.raises(ConfigError, match=f"is quantised already. Give model.quantisation={kind.value}"):
        model.load(replace(asked, quantisation=Quantisation.none))
    edited(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ConfigError, match="quantised as gptq, and this laboratory reads int8 and nf4"):
        model.load(asked)


@needs_bitsandbytes
def test_a_quantised_llava_as_transformers_4_wrote_it(tmp_path: Path) -> None:
    """`vision_tower.vision_model` in the names of tensors, and a list of what was left alone that names nothing in 5."""
    from safetensors.torch import load_file, save_file

    first = model.load(replace(checkpoints.save("llava", tmp_path / "plain"), quantisation=Quantisation.nf4))
    first.model.save_pretrained(tmp_path)
    first.processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    edited(tmp_path, quantization_config=settings | {"llm_int8_skip_modules": ["language_model.lm_head", "multi_modal_projector", "vision_tower"]})
    tensors = {name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in load_file(tmp_path / "model.safetensors").items()}
    assert any("vision_model" in name for name in tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    again = model.load(ModelDial(name="llava", family="llava", path=str(tmp_path), quantisation=Quantisation.nf4))
    assert type(again.base_model.model.vision_tower.encoder.layers[0].mlp.fc1) is torch.nn.Linear
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        assert torch.equal(*(vlm.base_model(input_ids=ids).logits for vlm in (first, again)))


@needs_bitsandbytes
def test_a_layer_without_scales_is_refused(dial: ModelDial) -> None:
    """It fails in the first forward, or multiplies bytes as numbers."""
    vlm = model.load(replace(dial, quantisation=Quantisation.nf4, dtype=DType.bfloat16))
    layer = vlm.base_model.model.language_model.layers[0].mlp.up_proj
    layer.weight = torch.nn.Parameter(torch.zeros(96, 64, dtype=torch.bfloat16), requires_grad=False)
    with pytest.raises(ModelError, match=r"1 layers are quantised by its config.json and not in its files .first: .*layers\.0\.mlp\.up_proj"):
        precision.require_scales(dial, vlm.base_model)


class Products(TorchDispatchMode):
    """Notes which products are made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += [func.overloadpacket.__name__] if func.overloadpacket.__name__ in ("mm", "bmm", "addmm") else []
        return func(*args, **(kwargs or {}))


def test_a_head_in_16_bits_reads_the_last_positions_of_all_rows_as_one_matrix(tmp_path) -> None:
    """And not with a copy of the vocabulary for each row; over float32 as it was, to the bit."""
    saved = checkpoints.save("qwen2_vl", tmp_path)
    for dtype, made in ((DType.bfloat16, ["mm"]), (DType.float32, ["bmm"])):
        vlm = model.load(replace(saved, dtype=dtype))
        head = vlm.family.architecture.head(vlm.base_model)
        states = torch.randn(3, 5, head.in_features, dtype=head.weight.dtype)
        with Products() as products, torch.no_grad():
            found = head(states[:, -2:])
        assert products.made == made
        assert torch.allclose(found, torch.nn.functional.linear(states, head.weight)[:, -2:], atol=1e-1 if dtype is DType.bfloat16 else 1e-5)
