"""Encoding equals the processor's own call; the answer is all that is trained; answer-row logits equal the plain path."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from checkpoints import with_answer

from lab import data, model, vision_tokens
from lab.data.images import decode
from lab.errors import ConfigError
from lab.model.answers import readout
from lab.model.batching import IGNORED, expand
from lab.model.encoding import Encoder
from lab.prompt import to_chat
from lab.training.losses import answer_loss


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    x = composer(f"model.path={tiny_folder}", "data.num_train=32", "data.num_minival=8", "data.num_dev=16")
    splits = data.load(x.data, cache)
    vlm = model.load(x.model)
    return x, vlm, splits, Encoder(vlm, x.prompt)


@pytest.mark.parametrize("option", ["declarative", "qa"])
@pytest.mark.parametrize("numbered", [False, True])
def test_prompt_equals_the_processors_own(world, composer, option, numbered) -> None:
    x, vlm, splits, _ = world
    dial = composer(f"prompt={option}", f"prompt.numbered={numbered}").prompt
    encoder = Encoder(vlm, dial)
    samples = [splits.dev[i] for i in range(3)]
    for sample in samples:
        batch = encoder.collate([encoder.example(sample)], with_answers=False, align=1)
        chat = to_chat(sample, dial)
        text = vlm.processor.apply_chat_template(
            list(chat.messages), add_generation_prompt=True, tokenize=False, add_vision_id=numbered
        )
        ours = vlm.processor(text=[text], images=[decode(p) for p in sample.images], return_tensors="pt")
        ids = {"input_ids": batch.prompt.ids, "attention_mask": batch.prompt.mask, "mm_token_type_ids": batch.prompt.types}
        for name, tensor in (ids | batch.media.pixels).items():
            assert torch.equal(tensor, ours[name]), name


def test_only_the_answer_is_trained(world) -> None:
    _, vlm, splits, encoder = world
    batch = encoder.collate([encoder.example(splits.train[i]) for i in range(6)], with_answers=True)
    for row, label in zip(batch.prompt.ids, batch.target.labels, strict=True):
        trained = vlm.processor.tokenizer.decode(label[label != IGNORED])
        assert trained in ("True<|im_end|>", "False<|im_end|>")
        assert torch.equal(row[-len(label) :][label != IGNORED], label[label != IGNORED])
    assert batch.target.rows == 3 == batch.target.labels.shape[1] + 1


@pytest.mark.parametrize("lengths", [(2, 2, 2, 2, 2), (2, 7, 1, 40, 3)])
def test_answers_of_any_lengths_equal_the_labels_path(world, lengths) -> None:
    """Loss and gradients equal Transformers' own `labels=`."""
    _, vlm, splits, encoder = world
    examples = [with_answer(encoder.example(splits.train[i]), length) for i, length in enumerate(lengths)]
    batch = encoder.collate(examples, with_answers=True)
    weight = vlm.model.model.language_model.layers[0].self_attn.q_proj.weight
    weight.requires_grad_(True)
    ours = answer_loss(vlm.predict(batch), batch.target.labels)
    (gradient,) = torch.autograd.grad(ours, weight)
    plain = vlm.model(
        input_ids=batch.prompt.ids,
        attention_mask=batch.prompt.mask,
        mm_token_type_ids=batch.prompt.types,
        labels=torch.nn.functional.pad(batch.target.labels, (batch.prompt.ids.shape[1] - max(lengths), 0), value=IGNORED),
        **batch.media.pixels,
    ).loss
    (expected,) = torch.autograd.grad(plain, weight)
    weight.requires_grad_(False)
    assert abs(ours.item() - plain.item()) < 1e-6
    assert (gradient - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1.0)


def test_features_equal_pixels_bit_for_bit(world) -> None:
    _, vlm, splits, encoder = world
    examples = [encoder.example(splits.train[i]) for i in range(4)]
    batch = encoder.collate(examples, with_answers=True)
    with torch.no_grad():
        features = vlm.encode_images(batch.media.pixels)
        cached = batch.seen(features)
        assert torch.equal(vlm.logits(batch, 3), vlm.logits(cached, 3))


def test_every_tensor_is_pinned(world, monkeypatch) -> None:
    """By torch's own DataLoader, which leaves records of other kinds as they are if they do not say how."""
    from torch.utils._pytree import tree_flatten
    from torch.utils.data._utils.pin_memory import pin_memory

    _, vlm, splits, encoder = world
    batch = encoder.collate([encoder.example(splits.train[i]) for i in range(2)], with_answers=True)
    media = dataclasses.replace(batch.media, features=(torch.zeros(2, 3), torch.ones(1, 3)))
    batch = dataclasses.replace(batch, media=media)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    before, after = (tree_flatten(dataclasses.asdict(one)) for one in (batch, pin_memory(batch)))
    assert before[1] == after[1] and sum(isinstance(leaf, torch.Tensor) for leaf in before[0]) == 9
    for one, other in zip(before[0], after[0], strict=True):
        assert torch.equal(one + 1, other) if isinstance(one, torch.Tensor) else one == other


def test_expand() -> None:
    import numpy as np

    assert expand(np.array([5, 9, 6, 9, 7]), (9,), [2, 3]).tolist() == [5, 9, 9, 6, 9, 9, 9, 7]


def test_captured_mass_of_spellings(world) -> None:
    """log p_A sums the probability of every single-token spelling, by hand."""
    x, vlm, splits, encoder = world
    tokens = readout(vlm.processor.tokenizer, x.prompt)
    assert not set(tokens.ids[0]) & set(tokens.ids[1])
    assert {"True", "true", " True"} <= set(tokens.spellings[0])
    logits = torch.randn(4, vlm.base_model.config.text_config.vocab_size, dtype=torch.float32)
    true = tokens.log_p(logits)[:, 0]
    by_hand = logits.double().softmax(-1)[:, list(tokens.ids[0])].sum(-1).log()
    assert torch.allclose(true.double(), by_hand, atol=1e-5)


def test_an_answer_of_many_tokens_is_refused(world, composer) -> None:
    _, vlm, *_ = world
    dial = composer("prompt.answer_true=indubitably").prompt
    with pytest.raises(ConfigError, match="prompt.answer_true='indubitably'.*tokens"):
        readout(vlm.processor.tokenizer, dial)


@pytest.mark.parametrize("budget", [1, 4, 9, 16])
def test_resize_meets_its_budget(composer, world, budget) -> None:
    x, vlm, splits, _ = world
    fitted = vlm.share()
    vision_tokens.install(fitted, composer("vision_tokens=resize", f"vision_tokens.budget={budget}").vision_tokens)
    encoder = Encoder(fitted, x.prompt)
    batch = encoder.collate([encoder.example(splits.dev[i]) for i in range(4)], with_answers=False)
    assert max(batch.media.tokens) <= budget
    assert (batch.prompt.ids == encoder.image_id).sum().item() == sum(batch.media.tokens)
