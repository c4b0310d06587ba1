"""What an arm would save can be loaded again, and this is known before its first step: for every target and initialisation."""

from __future__ import annotations

import re

import pytest
import torch
from checkpoints import FAMILIES, moved, save
from test_families import PROMPT, sample

from lab import lora, model
from lab.artifacts import adapter, contract, export
from lab.config import ConditioningDial, DataDial, Experiment, LoraDial, TrainerSection, VisionTokensDial
from lab.errors import ModelError
from lab.evaluation import stages
from lab.evaluation.scoring import answer_logits
from lab.model.encoding import Encoder
from lab.run.assembly import assemble, attached, rehearse

HEAD = r".*(q_proj|lm_head|c_attn)"


def experiment(dial, **values) -> Experiment:
    way = "add_cross_attention" if dial.family == "vit_gpt2" else "prefix"
    return Experiment(
        model=dial, data=DataDial(name="pairs"), lora=LoraDial(name="llm", r=2, **values), prompt=PROMPT,
        vision_tokens=VisionTokensDial(name="native"), conditioning=ConditioningDial(name=way), trainer=TrainerSection(max_steps=2),
    )  # fmt: skip


@pytest.fixture(scope="module", params=[*FAMILIES, "vit_gpt2"])
def base(request, tmp_path_factory):
    dial = save(request.param, tmp_path_factory.mktemp("checkpoint") / request.param)
    return dial, model.load(dial)


def weights(vlm) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in vlm.base_model.state_dict().items()}


def test_every_initialisation_and_target_is_loaded_as_it_was_saved(base) -> None:
    dial, vlm = base
    before = weights(vlm)
    for values in ({"target_modules": HEAD}, {"use_dora": True}, *({"init_lora_weights": name} for name in lora.INITS)):
        x = experiment(dial, **values)
        try:
            lora.verify(assemble(x, vlm), x.lora)
        except ModelError:
            continue
        rehearse(x, vlm)
    after = weights(vlm)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), "the shared base is left as it was"


def test_what_is_not_loaded_as_saved_is_refused_before_training(base, monkeypatch) -> None:
    dial, vlm = base
    x, place = experiment(dial), adapter.place

    def forgetful(loaded, folder) -> None:
        place(loaded, folder)
        next(p for name, p in loaded.model.named_parameters() if "lora_A" in name).data.zero_()

    monkeypatch.setattr(adapter, "place", forgetful)
    with pytest.raises(ModelError, match=re.escape("lora.target_modules='all-linear': 1 of ")):
        rehearse(x, vlm)
    assert not hasattr(vlm.model, "peft_config")


def test_an_adapted_head_is_merged_without_the_embedding_it_is_tied_to(base, tmp_path) -> None:
    dial, vlm = base
    x = experiment(dial, target_modules=HEAD)
    with attached(x, vlm) as arm:
        encoder = Encoder(moved(arm), x.prompt)
        batch = encoder.collate([encoder.example(sample(i, ragged=True)) for i in range(2)], with_answers=False)
        merged = stages.merged(arm)
        with torch.inference_mode():
            adapted, plain = answer_logits(arm, batch), answer_logits(merged, batch)
        assert torch.allclose(adapted, plain, atol=1e-4) and adapted.std() > 0.1
        if export.exportable(arm) is None:
            adapter.save(arm, tmp_path / "adapter")
    assert vlm.base_model.get_output_embeddings().weight is vlm.base_model.get_input_embeddings().weight, "the base keeps its tie"
    if (tmp_path / "adapter").exists():
        again = model.load(dial)
        adapter.load(again, tmp_path / "adapter")
        contract.save(tmp_path, {})
        export.export(again, tmp_path / "export", {})
        alone = model.load(model.ModelDial(name="x", family=dial.family, path=str(tmp_path / "export")))
        with torch.inference_mode():
            assert torch.allclose(answer_logits(alone, batch), adapted, atol=1e-4)
