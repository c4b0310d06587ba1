"""Each method on cases small enough to do by hand; training, saving, reloading; invariance to batch size and padding."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from kills import PowerCut, cut, essence

from lab import data, model, run, vision_tokens
from lab.answers import predictions
from lab.artifacts import adapter
from lab.config import PruneRule
from lab.errors import ConfigError, DataError
from lab.evaluation import scoring
from lab.model.answers import readout
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.model.visual import grid_places
from lab.store import runs
from lab.training.resuming import CheckpointCallback
from lab.vision_tokens.merging import Merge
from lab.vision_tokens.pooling import Pool, cell_centres, pooled_grid
from lab.vision_tokens.pruning import Prune
from lab.vision_tokens.resampling import Resampler, lattice

pytestmark = pytest.mark.usefixtures("nominal_costs")

REDUCING = ("pool", "resampler", "prune", "merge")
BUDGETS = (4, 9, 16)


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=32", "data.num_minival=8", "data.num_dev=16")
    splits = data.load(x.data, tmp_path_factory.mktemp("cache"))
    return x, model.load(x.model), splits


@pytest.fixture
def installed(world, composer):
    """A view on the tiny base with one method, and its encoder."""

    def make(method: str, budget: int | None = None, *overrides: str):
        given = [f"vision_tokens={method}", *([f"vision_tokens.budget={budget}"] if budget else []), *overrides]
        x, base, _ = world
        vlm = base.share()
        vision_tokens.install(vlm, composer(*given).vision_tokens, seed=3)
        return vlm, Encoder(vlm, x.prompt)

    return make


def example(encoder: Encoder, sample, sizes, seed: int = 0) -> Example:
    """A sample of the data set with images of other sizes (in patches of the tower) and random features."""
    generator = torch.Generator().manual_seed(seed)
    grids = tuple((1, h, w) for h, w in sizes)
    features = tuple(torch.randn(h * w // 4, 128, generator=generator) for h, w in sizes)
    return Example(sample.sample_id, encoder.text(sample), grids, features=features)


# ------------------------------------------------------------------------------------------------- by hand


def test_pooled_grid_keeps_the_shape() -> None:
    assert [pooled_grid(4, 4, n) for n in (1, 4, 5, 7, 9, 12, 16, 64)] == [
        (1, 1), (2, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4), (4, 4),
    ]  # fmt: skip
    assert pooled_grid(4, 14, 16) == (2, 8)
    assert pooled_grid(14, 4, 16) == (8, 2)
    for budget in range(1, 40):
        rows, columns = pooled_grid(5, 7, budget)
        assert rows * columns <= budget and rows <= 5 and columns <= 7


def test_pool_by_hand() -> None:
    """2 x 4 to 1 x 2: each token the mean of a 2 x 2 cell, at the upper left of its centre."""
    features = torch.arange(8.0).view(1, 8, 1)
    tokens, places = Pool(2)(features, 2, 4)
    assert tokens.flatten().tolist() == [(0 + 1 + 4 + 5) / 4, (2 + 3 + 6 + 7) / 4]
    assert places.tolist() == [[[0, 0], [0, 2]]]
    assert cell_centres(4, 3) == [0, 1, 2]
    assert cell_centres(5, 1) == [2]


def test_prune_by_hand() -> None:
    """Six tokens, 2 x 3, five alike: the odd one is kept first, then what each rule says."""
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [0.0, -2.0], [1.0, 0.0]]])
    kept, places = Prune(2, PruneRule.norm, 2)(features, 2, 3)
    assert kept.tolist() == [[[3.0, 0.0], [0.0, -2.0]]]
    assert places.tolist() == [[[0, 2], [1, 1]]]
    # mean (7/6, -1/3): deviations .37 .37 1.86 .37 2.03 .37, so ties at the third are won by the first read
    kept, places = Prune(3, PruneRule.deviation, 2)(features, 2, 3)
    assert places.tolist() == [[[0, 0], [0, 2], [1, 1]]]
    # by angle token 2 is like the others: after token 4 every other is as far, and the first read wins
    kept, places = Prune(2, PruneRule.diverse, 2)(features, 2, 3)
    assert places.tolist() == [[[0, 0], [1, 1]]]


def test_merge_by_hand() -> None:
    """1 x 4, A = {0, 2}, B = {1, 3}. Token 0 is nearest to 1; 2 to 3. Then two rounds, averages weighted by size."""
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 3.0]]])
    tokens, places = Merge(3, 2)(features, 1, 4)  # 2 and 3 are parallel: the closest pair
    assert places.tolist() == [[[0, 0], [0, 1], [0, 3]]]
    assert torch.allclose(tokens, torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 2.0]]]))
    tokens, places = Merge(2, 2)(features, 1, 4)
    assert places.tolist() == [[[0, 1], [0, 3]]]
    assert torch.allclose(tokens, torch.tensor([[[1.0, 0.05], [0.0, 2.0]]]))
    tokens, places = Merge(1, 2)(features, 1, 4)
    assert places.tolist() == [[[0, 3]]]
    assert torch.allclose(tokens, features.mean(1, keepdim=True))


def test_merge_keeps_the_mean_of_all_tokens() -> None:
    features = torch.randn(3, 35, 16, generator=torch.Generator().manual_seed(0))
    for budget in (1, 4, 17, 34):
        tokens, places = Merge(budget, 16)(features, 5, 7)
        assert tokens.shape == (3, budget, 16)
        assert len({tuple(place) for place in places[0].tolist()}) == budget
    assert torch.allclose(Merge(1, 16)(features, 5, 7)[0][:, 0], features.mean(1), atol=1e-5)


def test_resampler_starts_as_a_local_average() -> None:
    """With as many latents as tokens each looks at its own; weights by hand; the places are the lattice's cells."""
    features = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    resampler = Resampler(4, 8, 8, 2)
    resampler.queries.data.zero_()
    tokens, places = resampler(features, 2, 2)
    assert places.tolist() == [[[0, 0], [0, 1], [1, 0], [1, 1]]]
    weight = torch.exp(-8.0 * torch.tensor([0.0, 0.25, 0.25, 0.5]))
    assert torch.allclose(tokens[0, 0], (weight / weight.sum()) @ features[0], atol=1e-6)
    flat = resampler(torch.full((1, 4, 8), 3.0), 2, 2)[0]
    assert torch.allclose(flat, torch.full((1, 4, 8), 3.0), atol=1e-5)


def test_lattice_spreads_any_number() -> None:
    for number in range(1, 70):
        above, below = lattice(number)
        points = above / below
        assert points.shape == (number, 2) and points.min() > 0 and points.max() < 1
        assert len(set(map(tuple, points.tolist()))) == number
    assert (lattice(5)[0] * torch.tensor([4, 6]) // lattice(5)[1]).tolist() == [[1, 1], [1, 4], [3, 1], [3, 3], [3, 5]]


# --------------------------------------------------------------------------------------- positions and masks


def test_positions_by_hand(installed, world) -> None:
    """A 2 x 3 and a 4 x 4 image, reduced: start p, places, and the next text at p + max(h, w) of the whole grid."""
    vlm, encoder = installed("pool", 4)
    one = example(encoder, world[2].dev[0], [(4, 6), (8, 8)])
    batch = encoder.collate([one], with_answers=True)
    assert batch.media.tokens == (4, 4) and batch.media.grids == ((2, 3), (4, 4))
    assert batch.prompt.ids.shape == batch.prompt.types.shape == batch.prompt.mask.shape
    assert batch.prompt.types.sum() == 8 == (batch.prompt.ids == encoder.image_id).sum()
    made, _ = vlm.condition(batch)
    first, second = (int(i) for i in (one.text.prompt_ids == encoder.image_id).nonzero()[0])
    t, h, w = made.prompt.positions[:, 0].tolist()
    assert t[:first] == h[:first] == w[:first] == list(range(first))
    p = first
    # 2 x 3 pools to 2 x 2: cells of one row and of two columns, [0, 2) and [1, 3), whose middles round down to 0 and 1
    assert list(zip(t, h, w, strict=True))[first : first + 4] == [(p, p, p), (p, p, p + 1), (p, p + 1, p), (p, p + 1, p + 1)]
    assert (t[first + 4], h[first + 4], w[first + 4]) == (p + 3,) * 3
    q = p + 3 + (second - first - 1)
    start = second + 3
    expected = [(q, q, q), (q, q, q + 2), (q, q + 2, q), (q, q + 2, q + 2)]
    assert list(zip(t, h, w, strict=True))[start : start + 4] == expected
    rest = len(t) - start - 4
    assert t[start + 4 :] == h[start + 4 :] == w[start + 4 :] == list(range(q + 4, q + 4 + rest))


@pytest.mark.parametrize("method", ["pool", "prune", "merge"])
def test_a_budget_that_is_large_enough_changes_nothing(installed, world, method) -> None:
    """Not a bit of the logits, and positions are get_rope_index's own, in a padded batch with answers."""
    _, base, splits = world
    native, encoder = installed("native")
    vlm, reducing = installed(method, 64)
    sizes = [[(8, 8), (4, 6)], [(6, 4), (8, 16)], [(8, 8), (8, 8)]]
    plain, reduced = (
        e.collate([example(e, splits.dev[i], sizes[i]) for i in range(3)], with_answers=True) for e in (encoder, reducing)
    )
    grids = torch.tensor([(1, *size) for pair in sizes for size in pair])
    expected, _ = base.base_model.model.get_rope_index(
        plain.prompt.ids, plain.prompt.types, image_grid_thw=grids, attention_mask=plain.prompt.mask
    )
    real = plain.prompt.mask.bool()
    made, _ = vlm.condition(reduced)
    assert torch.equal(plain.prompt.positions, expected)
    assert torch.equal(made.prompt.positions[:, real], expected[:, real])
    with torch.no_grad():
        assert torch.equal(vlm.logits(reduced, 3), base.logits(plain, 3))


@pytest.mark.parametrize("method", ["prune", "merge", "resampler"])
def test_image_tokens_stand_at_their_places(installed, world, method) -> None:
    vlm, encoder = installed(method, 3)
    batch = encoder.collate([example(encoder, world[2].dev[i], [(8, 8), (4, 12)], i) for i in range(4)], with_answers=False)
    made, _ = vlm.condition(batch)
    where = made.prompt.positions[:, batch.prompt.types.bool()].T.view(8, 3, 3)
    for image, (h, w) in enumerate(batch.media.grids):
        tokens, places = vlm.reducer(batch.media.features[image][None], h, w)
        assert torch.equal(where[image, :, 1:] - where[image, :, :1], places[0])
        assert torch.allclose(made.media.features[image], tokens[0], rtol=0.0, atol=1e-6)  # those of one grid are multiplied together
        assert (places >= 0).all() and (places[..., 0] < h).all() and (places[..., 1] < w).all()
    text = made.prompt.positions[:, ~batch.prompt.types.bool() & batch.prompt.mask.bool()]
    assert torch.equal(text[0], text[1]) and torch.equal(text[0], text[2])


@pytest.mark.parametrize("method", REDUCING)
def test_pixels_and_features_give_the_same(installed, world, method) -> None:
    """The reduction after a tower that runs and after features from the store: the same bits."""
    vlm, encoder = installed(method, 9)
    batch = encoder.collate([encoder.example(world[2].dev[i]) for i in range(3)], with_answers=False)
    with torch.no_grad():
        features = vlm.encode_images(batch.media.pixels)
        cached = batch.seen(features)
        assert torch.equal(vlm.logits(batch, 2), vlm.logits(cached, 2))


def test_native_leaves_no_trace(installed) -> None:
    vlm, encoder = installed("native")
    assert vlm.reducer is None and vlm.budget is None and not vlm.extras
    assert encoder.tokens((1, 8, 8)) == 16


# ------------------------------------------------------------------------------------------ budgets and errors


@pytest.mark.parametrize("method", ["resize", *REDUCING])
@pytest.mark.parametrize("budget", [1, 3, 4, 9, 16, 50])
def test_no_image_exceeds_its_budget(installed, world, method, budget) -> None:
    _, encoder = installed(method, budget)
    batch = encoder.collate([encoder.example(world[2].dev[i]) for i in range(2)], with_answers=False)
    assert max(batch.media.tokens) <= budget
    assert (batch.prompt.ids == encoder.image_id).sum() == sum(batch.media.tokens)
    if method == "resampler":
        assert set(batch.media.tokens) == {budget}  # also more than the 16 that the tower makes


def test_resize_says_which_image_breaks_the_budget(installed, tmp_path: Path) -> None:
    from PIL import Image

    from lab.records import Picture

    Image.new("RGB", (16, 16 * 40)).save(tmp_path / "strip.png")
    _, encoder = installed("resize", 2)
    with pytest.raises(DataError, match=r"strip.png: vision_tokens.budget=2: .* makes \d+ tokens of its .*ask for at least"):
        encoder.picture(Picture(str(tmp_path / "strip.png")))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("vision_tokens=pool", "vision_tokens.budget=null"), "vision_tokens=pool needs one"),
        (("vision_tokens=native", "vision_tokens.budget=4"), "takes no budget"),
        (("vision_tokens.name=poool",), "Did you mean 'pool'"),
        (("vision_tokens=resampler", "vision_tokens.heads=3"), "3 heads do not divide"),
        (("vision_tokens=pool", "vision_tokens.rule=norm"), "vision_tokens.rule=norm: it belongs to vision_tokens=prune"),
        (("vision_tokens=merge", "vision_tokens.budget=0"), "vision_tokens.budget=0: it must be at least 1"),
    ],
)
def test_errors_name_the_key(world, composer, overrides, said) -> None:
    with pytest.raises(ConfigError, match=said):
        vision_tokens.install(world[1].share(), composer(*overrides).vision_tokens)


# --------------------------------------------------------------------------------------- training and reloading


@pytest.fixture(scope="module")
def prepared(composer, tiny_folder, tmp_path_factory):
    """One base and one feature store for every method and budget, as in a sweep."""
    folder = tmp_path_factory.mktemp("runs")

    def make(*overrides: str):
        given = ("data.num_train=16", "data.num_minival=8", "data.num_dev=12", "trainer.max_steps=3", "trainer.batch_size=4")
        given += ("optim.lr=0.01", "evaluation.batch_size=4", "evaluation.latency_examples=0")
        given += ("evaluation.verify=false", "tracking.enabled=false")
        given += (f"tracking.runs_dir={folder}/runs", f"tracking.cache_dir={folder}/cache")
        return composer(f"model.path={tiny_folder}", *given, *overrides)

    return make, run.prepare(make())


@pytest.mark.parametrize(
    ("method", "budget"),
    [("resampler", 4), ("merge", 4), *(pytest.param(*each, marks=pytest.mark.bar) for each in (("resize", 9), ("pool", 9), ("prune", 16)))],
)
def test_trains_resumes_reloads_and_evaluates(prepared, monkeypatch, tmp_path, method, budget) -> None:
    """A fresh model with the saved files scores as the run did, and a run that was cut ends as this one: to the last bit."""
    make, shared = prepared
    dials = (f"vision_tokens={method}", f"vision_tokens.budget={budget}", "trainer.save_every=1")
    x = make(*dials)
    record = run.run_arm(x, shared, run.new_run(x, "test"), time.time())
    assert record.status == runs.FINISHED
    assert record.metrics["visual_tokens/max"] <= budget
    run_dir = runs.folder(Path(x.tracking.runs_dir), record.identity)
    vlm = run.assemble(x, model.load(x.model))
    adapter.load(vlm, run_dir / "adapter")
    saved = predictions.read(run_dir / "predictions" / "pairs.dev.parquet")
    again = scoring.score(vlm, shared.encoded(x)["dev"], readout(vlm.processor.tokenizer, x.prompt), x.evaluation, "dev")
    assert [list(row.said.log_p) for row in again] == saved.log_p.tolist()
    assert {count for row in again for count in row.visual_tokens} <= set(range(1, budget + 1))
    elsewhere = make(*dials, f"tracking.runs_dir={tmp_path}")
    with monkeypatch.context() as patch:
        cut(patch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 2)
        with pytest.raises(PowerCut):
            run.run_arm(elsewhere, shared, run.new_run(elsewhere, "test"), time.time())
    resumed = run.run_arm(elsewhere, shared, run.new_run(elsewhere, "test"), time.time())
    assert resumed.facts["resumed_at_step"] == 2
    assert essence(elsewhere) == essence(x)


def test_the_equivalence_gate_passes(prepared) -> None:
    """Reloaded, one by one, padded on the other side: the same answers (`lab.evaluation.equivalence`)."""
    make, shared = prepared
    x = make("vision_tokens=merge", "vision_tokens.budget=5", "conditioning=cross_attention", "evaluation.verify=true")
    record = run.run_arm(x, shared, run.new_run(x, "test"), time.time())
    checked = ("reloaded", "batch of one", "right padding")
    gaps = {check["name"]: (check["max_gap"], check["flips"]) for check in record.facts["verify"] if check["name"] in checked}
    assert gaps == dict.fromkeys(checked, (0.0, 0))


def test_the_resampler_trains_alone(prepared) -> None:
    make, shared = prepared
    x = make("vision_tokens=resampler", "vision_tokens.budget=4", "lora=none")
    record = run.run_arm(x, shared, run.new_run(x, "test"), time.time())
    assert record.status == runs.FINISHED
    assert record.metrics["parameters/trainable"] == sum(p.numel() for p in Resampler(4, 128, 128, 4).parameters())


def test_one_store_serves_every_budget(prepared) -> None:
    make, shared = prepared
    arms = [make(f"vision_tokens={m}", f"vision_tokens.budget={n}") for m, n in zip(REDUCING, (4, 9, 16, 4), strict=True)]
    stores = {id(shared.encoded(x)["dev"].store) for x in [make(), *arms]}
    assert len(stores) == 1
    assert len({run.shared_key(x) for x in arms}) == 1


# ---------------------------------------------------------------------------------------------------- invariance


@pytest.mark.parametrize("method", REDUCING)
@pytest.mark.parametrize("rule", ["deviation", "diverse"])
def test_batch_size_and_padding(installed, world, method, rule) -> None:
    """Seven samples of many sizes at once and one by one: the same tokens and places to the bit; logits to rounding."""
    if rule == "diverse" and method != "prune":
        pytest.skip("only prune has rules")
    vlm, encoder = installed(method, 5, *(["vision_tokens.rule=" + rule] if method == "prune" else []))
    sizes = [[(8, 8), (4, 6)], [(6, 4), (8, 16)], [(8, 8)] * 2, [(2, 2), (8, 8)], [(4, 6)] * 2, [(8, 8)] * 2, [(8, 6)] * 2]
    examples = [example(encoder, world[2].dev[i], sizes[i], i) for i in range(7)]
    together = encoder.collate(examples, with_answers=False)
    made, _ = vlm.condition(together)
    image = 0
    with torch.no_grad():
        logits = vlm.logits(together, 1)
        for b, one in enumerate(examples):
            alone = encoder.collate([one], with_answers=False)
            single, _ = vlm.condition(alone)
            for feature in single.media.features:
                assert torch.equal(feature, made.media.features[image])
                image += 1
            assert torch.equal(made.prompt.positions[:, b, -alone.prompt.ids.shape[1] :], single.prompt.positions[:, 0])
            assert (vlm.logits(alone, 8)[:, -1] - logits[b]).abs().max() < 1e-5


def test_grid_places_read_line_by_line() -> None:
    assert grid_places(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert grid_places(1, 1).tolist() == [[0, 0]]
