"""The lean step against the plain one: loss and every gradient equal to rounding, before and after training has begun."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from checkpoints import FAMILIES, save, with_adapters, with_answer
from transformers.models.qwen2_vl.modeling_qwen2_vl import rotate_half

from lab import data, lora
from lab.config import DType, Optim
from lab.model.answers import readout
from lab.model.encoding import Encoder
from lab.training import capacity
from lab.training.fast.attention import Attention, causal_bands, later_bands
from lab.training.fast.autograd_ops import Gated, Layer, Normed, Stack, adapted
from lab.training.fast.fused_step import FusedStep, keeps_weights, recomputed
from lab.training.fast.heads import index
from lab.training.fast.packing import of_branches, of_roots, pack
from lab.training.learner import Learner
from lab.training.losses import answer_loss

BLOCKS = 2
"""Of the checkpoint's language model."""


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=32", "data.num_minival=8", "data.num_dev=16")
    return x, data.load(x.data, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def arm(world, composer):
    """A model with adapters that have left their start, and a batch of six prompts, not of one length, with pixels."""

    def make(*dials: str, dial=None, **lora_values):
        x, splits = world
        vlm = with_adapters(dial or x.model, composer(f"model.path={x.model.path}", *dials), **lora_values)
        vlm.model.train()
        encoder = Encoder(vlm, x.prompt)
        batch = encoder.collate([encoder.example(splits.train[i]) for i in range(0, 30, 5)], with_answers=True)
        assert len(set(batch.prompt.mask.sum(dim=1).tolist())) > 1
        return vlm, batch

    return make


def gradients(vlm, loss) -> dict[str, torch.Tensor]:
    """Of everything that trains; the model's own are taken from it."""
    loss.backward()
    found = {name: parameter.grad for name, parameter in lora.trainable(vlm).items() if parameter.grad is not None}
    for parameter in lora.trainable(vlm).values():
        parameter.grad = None
    return found


def compare(vlm, batch, prompt) -> FusedStep:
    """Assert equality of the two steps; return what the lean one found."""
    learner = Learner(vlm, Optim(), readout(vlm.processor.tokenizer, prompt), 1)
    plain = answer_loss(vlm.predict(batch), batch.target.labels)
    expected = gradients(vlm, plain)
    lean = learner.loss(batch)
    found = gradients(vlm, lean)
    assert lean.item() == pytest.approx(plain.item(), abs=2e-6)
    assert found.keys() == expected.keys() and len(found) > 2
    steepest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0 or "lora_" not in name, name
        assert (found[name] - gradient).abs().max() <= 5e-5 * gradient.abs().max() + 1e-8 * steepest, name
    assert all("forward" not in vars(module) for module in vlm.base_model.modules()), "the model is left as it was"
    return learner.fused


@pytest.mark.parametrize(
    ("dials", "values", "layers"),
    [
        ([], {}, 14),
        (["lora=attention"], {"lora_alpha": 3}, 8),
        (["lora=mlp"], {"use_rslora": True}, 6),
        (["lora=all"], {}, 14 + 8 + 2),
        ([], {"top_k_blocks": 1}, 7),
        (["conditioning=cross_attention"], {}, 14),
        (["vision_tokens=resampler", "vision_tokens.budget=4"], {}, 14),
        (["vision_tokens=pool", "vision_tokens.budget=4"], {}, 14),
        ([], {"use_dora": True}, 0),
    ],
)
def test_loss_and_gradients_are_those_of_the_plain_step(world, arm, dials, values, layers) -> None:
    vlm, batch = arm(*dials, **values)
    lean = compare(vlm, batch, world[0].prompt)
    assert len(lean.forwards) == layers + 2 * BLOCKS + 1
    assert (not lean.blocks) == ("conditioning=cross_attention" in dials)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families(world, arm, tmp_path, family) -> None:
    vlm, batch = arm(dial=save(family, tmp_path))
    lean = compare(vlm, batch, world[0].prompt)
    assert lean.forwards and bool(lean.blocks) == (family != "qwen3_vl")


@pytest.mark.parametrize(
    ("family", "dtype", "dials"),
    [
        ("qwen2_vl", "bfloat16", ["lora=all", "conditioning=cross_attention"]),
        ("qwen2_5_vl", "bfloat16", ["vision_tokens=resampler", "vision_tokens.budget=4"]),
        ("qwen3_vl", "float16", ["lora=all"]),
    ],
)
def test_in_sixteen_bits_the_step_is_the_plain_one_to_the_bit(world, arm, tmp_path, family, dtype, dials) -> None:
    """And both lie as far from the same step in float32 as 16 bits are coarse: some units in the last place of the loss."""
    saved = save(family, tmp_path)
    steps = {}
    for given in ("float32", dtype):
        dial = dataclasses.replace(saved, dtype=DType(given), fp32_layernorms=given != "float32" and family == "qwen2_5_vl")
        vlm, batch = arm(*dials, dial=dial)
        learner = Learner(vlm, Optim(), readout(vlm.processor.tokenizer, world[0].prompt), 1)
        loss = answer_loss(vlm.predict(batch), batch.target.labels)
        steps[given] = loss, gradients(vlm, loss)
        if given != "float32":
            lean = learner.loss(batch)
            assert torch.equal(lean, loss)
            assert all(torch.equal(one, steps[given][1][name]) for name, one in gradients(vlm, lean).items())
            assert not learner.fused.blocks and not learner.fused.forwards
    (exact, expected), (coarse, found) = steps["float32"], steps[dtype]
    assert abs(coarse - exact) <= 8 * torch.finfo(getattr(torch, dtype)).eps * exact
    ours, theirs = (torch.cat([side[name].flatten().double() for name in sorted(expected)]) for side in (found, expected))
    assert (ours - theirs).norm() <= 0.1 * theirs.norm()


def test_dropout_keeps_pefts_forward_and_draws_for_every_token(world, arm, monkeypatch) -> None:
    vlm, batch = arm(lora_dropout=0.5)
    assert len(FusedStep(vlm).forwards) == 2 * BLOCKS + 1, "norms alone"
    shared = []
    monkeypatch.setattr("lab.training.fast.fused_step.pack", lambda given: shared.append(given.shared) or pack(given))
    assert torch.isfinite(Learner(vlm, Optim(), readout(vlm.processor.tokenizer, world[0].prompt), 1).loss(batch))
    assert shared == [0] and batch.shared > 0


def test_a_checkpointed_model_is_left_alone(world, arm) -> None:
    """The second forward comes when the step has ended, and must be the first one's."""
    vlm, batch = arm()
    capacity.recompute(vlm, True)
    lean = compare(vlm, batch, world[0].prompt)
    assert lean.forwards and lean.blocks, "it could be trained leanly"
    assert torch.equal(lean.predict(batch), vlm.predict(batch))


def test_an_error_leaves_the_model_as_it_was(arm) -> None:
    vlm, batch = arm()
    broken = dataclasses.replace(batch, prompt=dataclasses.replace(batch.prompt, positions=batch.prompt.positions[..., :-1]))
    with pytest.raises(RuntimeError):
        FusedStep(vlm).predict(broken)
    assert all("forward" not in vars(module) for module in vlm.base_model.modules())


def test_what_begins_all_rows_is_read_once_and_the_last_block_asks_for_answer_rows_only(world, arm, monkeypatch) -> None:
    vlm, batch = arm()
    shapes = []
    monkeypatch.setattr("lab.training.fast.fused_step.adapted", lambda x, stacks: shapes.append(x.shape[1]) or adapted(x, stacks))
    Learner(vlm, Optim(), readout(vlm.processor.tokenizer, world[0].prompt), 1).loss(batch)
    rows = len(batch.prompt.ids)
    packed, answers = int(batch.prompt.mask.sum()) - (rows - 1) * batch.shared - rows, rows * (batch.target.rows - 1)
    assert shapes == [packed] * 4 + [packed] + [answers] * 4
    assert batch.shared == 15, "the system turn and the image marker"


def test_answers_of_any_lengths(world, arm) -> None:
    """Longer than another row's prompt and answer too, of which all positions are then read, and none is shared."""
    vlm, _ = arm()
    encoder = Encoder(vlm, world[0].prompt)
    examples = [with_answer(encoder.example(world[1].train[i]), length) for i, length in enumerate((2, 9, 4))]
    compare(vlm, encoder.collate(examples, with_answers=True), world[0].prompt)
    text = dataclasses.replace(examples[0].text, prompt_ids=examples[0].text.prompt_ids[:3])
    examples[0] = dataclasses.replace(examples[0], text=text, grids=(), pixels=())
    compare(vlm, encoder.collate(examples, with_answers=True), world[0].prompt)


def test_rows_that_share_nothing_or_everything(world, arm) -> None:
    vlm, batch = arm()
    compare(vlm, dataclasses.replace(batch, shared=0), world[0].prompt)
    x, splits = world
    encoder = Encoder(vlm, x.prompt)
    same = encoder.collate([encoder.example(splits.train[0])] * 3, with_answers=True)
    compare(vlm, same, x.prompt)
    compare(vlm, encoder.collate([encoder.example(splits.train[1])], with_answers=True), x.prompt)


def test_long_rows_keep_no_attention_weights(world, arm, monkeypatch) -> None:
    vlm, batch = arm()
    found = compare(vlm, batch, world[0].prompt)
    monkeypatch.setattr("lab.training.fast.fused_step.keeps_weights", lambda *_: False)
    monkeypatch.setattr("lab.training.fast.fused_step.Attention.apply", None)
    compare(vlm, batch, world[0].prompt)
    monkeypatch.undo()
    block = found.blocks[0]
    limit = 3 * block.mlp.gate_proj.out_features // 4
    assert keeps_weights(block, torch.zeros(1), limit) and not keeps_weights(block, torch.zeros(1), limit + 1)


def numbers(*shape: int, seed: int = 0, trains: bool = True) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(trains)


def test_gradients_in_float64() -> None:
    x, weight = numbers(3, 5, 8), numbers(8, trains=False)
    assert torch.autograd.gradcheck(lambda given: Normed.apply(given, weight, 1e-6), (x,))
    assert torch.autograd.gradcheck(Gated.apply, (numbers(3, 8), numbers(3, 8, seed=1)))
    downs, ups = (numbers(2, 8, seed=1), numbers(3, 8, seed=2)), (numbers(4, 2, seed=3), numbers(6, 3, seed=4))
    frozen = (numbers(4, 8, seed=5, trains=False), numbers(6, 8, seed=6, trains=False))

    def both(given, *factors):
        first = Layer(frozen[0], None, factors[0], factors[2], 0.5)
        return adapted(given, [Stack([first, Layer(frozen[1], weight[:6], factors[1], factors[3], 2.0)])])[0]

    def apart(given, *factors):
        first = Layer(frozen[0], None, factors[0], factors[2], 0.5)
        return adapted(given, [Stack([first]), Stack([Layer(frozen[1], weight[:6], factors[1], factors[3], 2.0)])])

    assert torch.autograd.gradcheck(both, (x, *downs, *ups))
    assert torch.autograd.gradcheck(apart, (x, *downs, *ups))
    first, second = both(x, *downs, *ups).split([4, 6], dim=-1)
    assert torch.allclose(first, x @ (frozen[0] + 0.5 * ups[0] @ downs[0]).T, atol=1e-12)
    assert torch.allclose(second, x @ (frozen[1] + 2.0 * ups[1] @ downs[1]).T + weight[:6], atol=1e-12)
    assert all(torch.allclose(*pair, atol=1e-12) for pair in zip(apart(x, *downs, *ups), (first, second), strict=True))


@pytest.fixture
def narrow_bands(monkeypatch):
    monkeypatch.setattr("lab.training.fast.attention.BAND", 3)
    for made in (causal_bands, later_bands):
        made.cache_clear()
    yield
    for made in (causal_bands, later_bands):
        made.cache_clear()


LAYOUTS = {
    "alone": (0, [range(0, 4), range(4, 9)], []),
    "shared": (2, [range(2, 6), range(6, 11), range(11, 12)], []),
    "trees": (0, [range(0, 5), range(5, 10)], [(range(0, 5), range(10, 13)), (range(5, 10), range(13, 17)), (range(5, 10), range(17, 18))]),
    "ragged trees": (
        2, [range(2, 5), range(5, 11), range(11, 14)],
        [(range(2, 5), range(14, 19)), (range(5, 11), range(19, 20)), (range(5, 11), range(20, 22))],
    ),
}
"""Tokens that begin all, those of each root, those of each branch behind its root's."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_attention_over_packed_rows_in_float64(narrow_bands, name) -> None:
    """Level by level, in bands or by PyTorch's own, against PyTorch's own over all tokens with a mask, turned as Transformers turns them; and its
    gradients."""
    shared, roots, branches = LAYOUTS[name]
    device = torch.device("cpu")
    levels = [of_roots(range(shared), roots, device), *([of_branches(range(shared), branches, device)] if branches else [])]
    number = shared + sum(map(len, roots)) + sum(len(own) for _, own in branches)
    x, angles = numbers(1, number, 4 * 6 + 2 * 2 * 6), torch.polar(torch.ones(number, 3, dtype=torch.float64), numbers(number, 3, trains=False))
    mask = torch.zeros(number, number, dtype=torch.bool)
    for path in ([*range(shared), *own] for own in (*roots, *([*trunk, *own] for trunk, own in branches))):
        for i, place in enumerate(path):
            mask[place, path[: i + 1]] = True
    cos, sin = (part.repeat(1, 2)[None, None] for part in (angles.real, angles.imag))
    heads = x[0].unflatten(-1, (-1, 6)).transpose(0, 1)[None]
    by_halves = heads[:, :6].unflatten(-1, (3, 2)).transpose(-1, -2).flatten(-2)  # of q and k what is turned together stands side by side
    turned = by_halves * cos + rotate_half(by_halves) * sin
    found = torch.nn.functional.scaled_dot_product_attention(turned[:, :4], turned[:, 4:], heads[:, 6:], attn_mask=mask, scale=0.5, enable_gqa=True)
    expected = found.transpose(1, 2).flatten(2)
    for way, folded in ((Attention.apply, True), (recomputed, False)):
        at = index(levels, number, 4, 2, folded)
        assert torch.allclose(way(x, at, angles, 0.5), expected, atol=1e-12)
        assert torch.autograd.gradcheck(lambda given, way=way, at=at: way(given, at, angles, 0.5), (x,), fast_mode=True)


def test_what_trains_is_read_when_it_is_used() -> None:
    """An optimizer of one pass over each parameter leaves its version as it was, so no copy of a sum may be kept by that."""
    x, weight, a, b = numbers(3, 8), numbers(4, 8, seed=5, trains=False), numbers(2, 8, seed=1), numbers(4, 2, seed=3)
    stack = Stack([Layer(weight, None, a, b, 0.5)], kept=True)
    adapted(x, [stack])[0].sum().backward()
    torch.optim.AdamW([a, b], lr=0.1, fused=True).step()
    assert torch.allclose(adapted(x, [stack])[0], x @ (weight + 0.5 * b @ a).T, atol=1e-12)
