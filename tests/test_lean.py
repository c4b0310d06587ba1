"""The lean step against the plain one: loss and every gradient equal to rounding, before and after training has begun."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lab import conditioning, data, lora, model
from lab.config import Optim
from lab.model.encoding import Encoder
from lab.training.lean import Lean
from lab.training.learner import Learner, answer_loss

FORWARD = "forward"


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=32", "data.num_minival=8", "data.num_dev=16")
    splits = data.load(x.data, tmp_path_factory.mktemp("cache"))
    return x, splits


def arm(world, *dials: str, composer, **lora_values):
    """A model with adapters that have left their start, and a batch of six with pixels."""
    x, splits = world
    vlm = model.load(x.model)
    dial = composer(f"model.path={x.model.path}", *dials)
    conditioning.install(vlm, dial.conditioning, 0)
    lora.attach(vlm, dataclasses.replace(dial.lora, r=4, **lora_values), seed=0)
    torch.manual_seed(1)
    for name, parameter in lora.trainable(vlm).items():
        if "lora_B" in name or name.endswith("gate"):
            parameter.data.normal_(0.0, 0.05)
    vlm.model.train()
    encoder = Encoder(vlm, x.prompt)
    return vlm, encoder.collate([encoder.example(splits.train[i]) for i in range(6)], with_answers=True)


def gradients(vlm, loss) -> dict[str, torch.Tensor]:
    """Of everything that trains; the model's own are taken from it."""
    loss.backward()
    found = {name: parameter.grad for name, parameter in lora.trainable(vlm).items() if parameter.grad is not None}
    for parameter in lora.trainable(vlm).values():
        parameter.grad = None
    return found


def compare(vlm, batch, prompt) -> int:
    """Assert equality of the two steps; return how many adapter layers took the lean way."""
    learner = Learner(vlm, Optim(), prompt, 1)
    plain = answer_loss(vlm.logits(batch, batch.answer_rows), batch.labels)
    expected = gradients(vlm, plain)
    lean = learner.loss(batch)
    found = gradients(vlm, lean)
    assert lean.item() == pytest.approx(plain.item(), abs=2e-6)
    assert found.keys() == expected.keys() and len(found) > 2
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        assert (found[name] - gradient).abs().max() <= 2e-5 * gradient.abs().max(), name
    assert all(FORWARD not in vars(module) for module in vlm.bare.modules()), "the model is left as it was"
    return len(learner.lean.layers)


@pytest.mark.parametrize(
    ("dials", "values", "layers"),
    [
        ([], {}, 35),
        (["lora=attention"], {"lora_alpha": 3}, 20),
        (["lora=mlp"], {"use_rslora": True}, 15),
        (["lora=all"], {}, 35 + 12 + 2),
        ([], {"top_k_blocks": 1}, 7),
        (["conditioning=cross_attention"], {}, 35),
    ],
)
def test_loss_and_gradients_are_those_of_the_plain_step(world, composer, dials, values, layers) -> None:
    vlm, batch = arm(world, *dials, composer=composer, **values)
    assert compare(vlm, batch, world[0].prompt) == layers


@pytest.mark.parametrize("values", [{"use_dora": True}, {"lora_dropout": 0.5}])
def test_what_is_not_plain_keeps_pefts_forward(world, composer, values) -> None:
    """Only the last block is shortened; with dropout both draw the same mask where they draw for the same tensor."""
    vlm, batch = arm(world, composer=composer, **values)
    lean = Lean(vlm)
    assert lean.layers == [] and lean.block is not None
    if "use_dora" in values:
            assert compare(vlm, batch, world[0].prompt) == 0


def test_a_checkpointed_model_is_left_alone(world, composer) -> None:
    """The second forward comes when the step has ended, and must be the first one's."""
    vlm, batch = arm(world, composer=composer)
    vlm.bare.gradient_checkpointing_enable({"use_reentrant": False})
    vlm.bare.enable_input_require_grads()
    assert compare(vlm, batch, world[0].prompt) == 35


def test_an_error_leaves_the_model_as_it_was(world, composer) -> None:
    vlm, _ = arm(world, composer=composer)
    with pytest.raises(RuntimeError, match="boom"), Lean(vlm).step(3):
        raise RuntimeError("boom")
    assert all(FORWARD not in vars(module) for module in vlm.bare.modules())


def test_the_feed_forward_of_the_last_block_sees_answer_rows_only(world, composer) -> None:
    vlm, batch = arm(world, composer=composer)
    learner = Learner(vlm, Optim(), world[0].prompt, 1)
    seen = []
    block = vlm.bare.model.language_model.layers[-1]
    handle = block.mlp.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    learner.loss(batch)
    vlm.logits(batch, batch.answer_rows)
    handle.remove()
    assert seen == [batch.answer_rows, batch.input_ids.shape[1]]
