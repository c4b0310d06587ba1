"""Scoring in place, and in parts, gives what PEFT's and Transformers' own forward gives, to the last bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from checkpoints import FAMILIES, save, with_adapters

from lab import data
from lab.evaluation import fast_inference, scoring
from lab.host.stopping import Stopped
from lab.model.answers import readout
from lab.model.encoding import Encoder
from lab.training.examples import Examples
from lab.training.fast.fused_step import instead


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=8", "data.num_minival=8", "data.num_dev=40")
    return x, data.load(x.data, tmp_path_factory.mktemp("cache"))


def both(vlm, splits, prompt) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the same examples by the model's own forward and in place, images as pixels."""
    encoder = Encoder(vlm, prompt)
    batch = encoder.collate([encoder.example(splits.dev[i]) for i in range(0, 30, 5)], with_answers=False)
    with torch.inference_mode():
        plain = scoring.answer_logits(vlm, batch)
        with instead(fast_inference.forwards(vlm, scoring.ROWS)):
            found = scoring.answer_logits(vlm, batch)
    assert all("forward" not in vars(module) for module in vlm.base_model.modules()), "the model is left as it was"
    return plain, found


@pytest.mark.parametrize(
    ("dials", "values"),
    [
        ([], {}),
        (["lora=all"], {"lora_alpha": 3}),
        ([], {"use_dora": True}),
        ([], {"lora_dropout": 0.5}),
        (["conditioning=cross_attention"], {"use_rslora": True}),
        (["vision_tokens=resampler", "vision_tokens.budget=4"], {}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_place_is_the_same_to_the_last_bit(world, composer, dials, values, dtype) -> None:
    x, splits = world
    chosen = composer(f"model.path={x.model.path}", f"model.dtype={dtype}", *dials)
    vlm = with_adapters(chosen.model, chosen, **values)
    plain, found = both(vlm, splits, x.prompt)
    assert torch.equal(plain, found) and plain.std() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families(world, tmp_path, family) -> None:
    x, splits = world
    vlm = with_adapters(save(family, tmp_path), x)
    more = len(fast_inference.forwards(vlm, scoring.ROWS)) - len(fast_inference.forwards(vlm))
    assert len(fast_inference.forwards(vlm)) > 10 and more == (family != "qwen3_vl"), "the last block"
    plain, found = both(vlm, splits, x.prompt)
    assert torch.equal(plain, found)


def test_every_kind_of_module_is_found(world) -> None:
    """14 adapted layers, two norms in each of two blocks and one behind them, two feed-forwards."""
    x, _ = world
    assert len(fast_inference.forwards(with_adapters(x.model, x))) == 14 + 5 + 2


def test_the_last_block_computes_the_last_rows_alone(world) -> None:
    x, splits = world
    vlm = with_adapters(x.model, x)
    shapes = []
    last = vlm.base_model.model.language_model.layers[-1].mlp
    last.register_forward_hook(lambda module, given, out: shapes.append(out.shape[1]))
    plain, found = both(vlm, splits, x.prompt)
    assert torch.equal(plain, found)
    assert shapes[1] == scoring.ROWS < shapes[0]


def test_scores_are_those_of_one_batch_and_of_many(world, monkeypatch) -> None:
    x, splits = world
    vlm = with_adapters(x.model, x)
    examples, tokens = Examples(splits.dev, Encoder(vlm, x.prompt)), readout(vlm.processor.tokenizer, x.prompt)
    shapes = []
    real = scoring.answer_logits
    monkeypatch.setattr(scoring, "answer_logits", lambda vlm, batch: (shapes.append(len(batch.sample_ids)), real(vlm, batch))[1])

    def scored(batch_size):
        return scoring.score(vlm, examples, tokens, dataclasses.replace(x.evaluation, batch_size=batch_size), "dev")

    large, small = scored(64), scored(3)
    assert shapes == [8] * 5 + [3] * 13 + [1]
    assert large == small and [row.sample_id for row in large] == list(splits.dev.sample_ids)
    monkeypatch.setattr(scoring, "CPU_PART", 40)
    assert scored(64) == large
    assert scoring.part_of(64, torch.device("cuda")) == 64


def test_scores_that_were_had_before_a_stop_are_not_asked_again(world, monkeypatch, tmp_path) -> None:
    x, splits = world
    vlm = with_adapters(x.model, x)
    examples, tokens = Examples(splits.dev, Encoder(vlm, x.prompt)), readout(vlm.processor.tokenizer, x.prompt)
    asked, real = [], scoring.answer_logits

    def stops_at_the_third(vlm, batch):
        asked.append(batch.sample_ids)
        if len(asked) == 3:
            raise Stopped("stopped by trainer.max_time=11:45:00")
        return real(vlm, batch)

    monkeypatch.setattr(scoring, "answer_logits", stops_at_the_third)
    with pytest.raises(Stopped):
        scoring.score(vlm, examples, tokens, x.evaluation, "dev", part=tmp_path / "part")
    again = scoring.score(vlm, examples, tokens, x.evaluation, "dev", part=tmp_path / "part")
    assert len(asked) == 6 and len({*asked}) == 5 and not (tmp_path / "part").exists()
    assert again == scoring.score(vlm, examples, tokens, x.evaluation, "dev")
