"""Identity at step 0, bit for bit; what cross-attention sees and what it must not; two arms over one base."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from lab import conditioning, data, lora, model, run, vision_tokens
from lab.answers import predictions
from lab.artifacts import adapter
from lab.errors import ConfigError
from lab.evaluation import scoring
from lab.model import Vlm
from lab.model.answers import readout
from lab.model.encoding import Encoder
from lab.store import runs
from lab.training import capacity
from lab.training.losses import answer_loss

pytestmark = pytest.mark.usefixtures("nominal_costs")

FORMS = {
    "serial": ("conditioning=cross_attention",),
    "parallel": ("conditioning=cross_attention", "conditioning.parallel=true"),
    "serial, no prefix": ("conditioning=cross_attention", "conditioning.keep_prefix=false"),
    "parallel, no prefix": ("conditioning=cross_attention", "conditioning.parallel=true", "conditioning.keep_prefix=false"),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def real_width() -> Vlm:
    """A Qwen2-VL of the 2B's widths with two language-model and two vision blocks, and a cut vocabulary."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

    from tools.pretraining.architecture import make_config
    from tools.pretraining.tokenizer import make_processor

    processor = make_processor()
    size = {"shortest_edge": 16 * 28 * 28, "longest_edge": 16 * 28 * 28}
    processor.image_processor = Qwen2VLImageProcessor(patch_size=14, merge_size=2, temporal_patch_size=2, size=size)
    tiny = make_config(processor).to_dict()
    text = {**tiny["text_config"], "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 12, "num_key_value_heads": 2, "layer_types": None}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision = {**tiny["vision_config"], "depth": 2, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "patch_size": 14}
    config = Qwen2VLConfig(**{**tiny, "text_config": text, "vision_config": vision})
    torch.manual_seed(0)
    loaded = Qwen2VLForConditionalGeneration(config).eval().requires_grad_(False)
    return Vlm(loaded, processor, model.family("qwen2_vl"), {"path": "random"})


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=32", "data.num_minival=8", "data.num_dev=16")
    splits = data.load(x.data, tmp_path_factory.mktemp("cache"))
    return x, model.load(x.model), splits


@pytest.fixture(scope="module", params=["tiny", pytest.param("two layers of real width", marks=pytest.mark.bar)])
def base(request, world) -> Vlm:
    return world[1] if request.param == "tiny" else real_width()


@pytest.fixture(scope="module")
def untouched(base, world):
    """A batch and the bare checkpoint's logits of it, everywhere."""
    batch = collate(base, world, 2)
    with torch.no_grad():
        return batch, base.logits(batch, batch.prompt.ids.shape[1])


def arm(vlm: Vlm, composer, *overrides: str) -> Vlm:
    """Another arm over a base, its dials installed as `lab.run.assemble` does."""
    x = composer(*overrides)
    other = vlm.share()
    vision_tokens.install(other, x.vision_tokens, 5)
    conditioning.install(other, x.conditioning, 5)
    return other


def collate(vlm: Vlm, world, number: int = 3, with_answers: bool = True):
    encoder = Encoder(vlm, world[0].prompt)
    return encoder.collate([encoder.example(world[2].dev[i]) for i in range(number)], with_answers)


def open_gates(vlm: Vlm, value: float = 0.7) -> None:
    """Let the images in: a gate that has trained."""
    for name, parameter in vlm.extras["cross_attention"].named_parameters():
        if name.endswith("gate"):
            parameter.data.fill_(value)


# ------------------------------------------------------------------------------------------------ bar 1: identity


@pytest.mark.parametrize(
    ("overrides", "lora_option"),
    [
        (("vision_tokens=native", "conditioning=prefix"), "none"),
        (("vision_tokens=native", "conditioning=prefix"), "all"),
        (FORMS["serial"], "none"),
        (FORMS["parallel"], "none"),
        ((*FORMS["serial"], "conditioning.every=1"), "all"),
        ((*FORMS["serial"], "vision_tokens=pool", "vision_tokens.budget=64"), "none"),
    ],
    ids=["native, prefix", "LoRA", "serial", "parallel", "serial, LoRA", "serial, pool that is large enough"],
)
def test_logits_are_the_bases_own_at_step_0(base, untouched, world, composer, overrides, lora_option) -> None:
    """With image tokens in the prompt: every row, every position, padded or not, the same bits."""
    batch, bare = untouched
    changed = arm(base, composer, *overrides)
    lora.attach(changed, composer(f"lora={lora_option}", "trainer.max_steps=0").lora, seed=1)
    theirs = collate(changed, world, 2)
    assert torch.equal(theirs.prompt.ids, batch.prompt.ids)
    with torch.no_grad():
        logits = changed.logits(theirs, theirs.prompt.ids.shape[1])
    if lora_option != "none":
        changed.model.unload()
    real = batch.prompt.mask.bool()
    assert torch.equal(logits[real], bare[real])


@pytest.mark.parametrize("parallel", ["false", "true"])
def test_without_prefix_logits_are_those_of_a_prompt_without_image_tokens(base, world, composer, parallel) -> None:
    """Against Transformers' own call on the prompt with its placeholders cut out, one row, no position given."""
    changed = arm(base, composer, *FORMS["serial, no prefix"], f"conditioning.parallel={parallel}")
    encoder = Encoder(changed, world[0].prompt)
    for i in range(2):
        batch = encoder.collate([encoder.example(world[2].dev[i])], with_answers=False, align=1)
        assert batch.media.tokens == (16, 16) and batch.prompt.types.sum() == 0
        ids = torch.from_numpy(encoder.text(world[2].dev[i]).prompt_ids)
        ids = ids[ids != encoder.image_id][None]
        assert torch.equal(batch.prompt.ids, ids)
        with torch.no_grad():
            expected = base.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
            assert torch.equal(changed.logits(batch, ids.shape[1]), expected)


# ------------------------------------------------------------------------------------------- what it sees


@forms
def test_open_gates_let_both_images_in(world, composer, form) -> None:
    """Either image moves the logits, exchanging them does too, and another sample's images never do."""
    changed = arm(world[1], composer, *form)
    open_gates(changed)
    batch = collate(changed, world, 2, with_answers=False)
    features = changed.encode_images(batch.media.pixels)
    cached = batch.seen(features)

    def logits(*order: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return changed.logits(cached.seen(order), 1)

    a, b, c, d = features
    usual = logits(a, b, c, d)
    for other in (logits(c, b, c, d), logits(a, c, c, d), logits(b, a, c, d)):
        assert (other[0] - usual[0]).abs().max() > 1e-4
        assert torch.equal(other[1], usual[1])


@forms
def test_padding_is_never_seen(world, composer, form) -> None:
    """A sample beside one with more image tokens, and one without any image beside one with: as alone, to rounding."""
    changed = arm(world[1], composer, *form)
    open_gates(changed)
    encoder = Encoder(changed, world[0].prompt)
    first, second = (encoder.example(world[2].dev[i]) for i in range(2))
    ids = first.text.prompt_ids
    cut = dataclasses.replace(first.text, prompt_ids=ids[ids != encoder.image_id])
    bare = dataclasses.replace(first, text=cut, grids=(), pixels=())
    short = dataclasses.replace(second, grids=((1, 4, 4), (1, 4, 4)), pixels=tuple(p[:16] for p in second.pixels))
    with torch.no_grad():
        together = changed.logits(encoder.collate([first, short, bare], with_answers=False), 4)[:, -1]
        for row, one in zip(together, (first, short, bare), strict=True):
            alone = changed.logits(encoder.collate([one], with_answers=False), 8)[0, -1]
            assert (alone - row).abs().max() < 1e-5


def test_a_token_of_image_a_is_not_one_of_image_b(composer) -> None:
    from lab.conditioning.cross_attention import place_features
    from lab.model.visual import grid_places

    told = [place_features(grid_places(4, 5), (4, 5), image) for image in range(6)]
    flat = torch.cat(told)
    apart = torch.cdist(flat, flat) + 9 * torch.eye(len(flat))
    assert apart.min() > 0.05


@forms
def test_image_positions_do_not_attend(world, composer, form) -> None:
    changed = arm(world[1], composer, *form)
    open_gates(changed)
    batch = collate(changed, world, 2)
    seen: list[torch.Tensor] = []
    block = next(iter(changed.extras["cross_attention"].blocks.values()))
    attend = block.attend
    block.attend = lambda h, memory: seen.append(attend(h, memory)) or seen[-1]
    with torch.no_grad():
        changed.logits(batch, 1)
    image = batch.prompt.types.bool()
    assert (seen[0][image] == 0).all() and (seen[0][~image] != 0).any()


# -------------------------------------------------------------------------------------- arms over one base


def test_arms_over_one_base_do_not_meet(world, composer) -> None:
    """Hooks are the base's, weights each arm's: opening one arm's gates moves neither the other nor the base."""
    base = world[1]
    one = arm(base, composer, *FORMS["serial"])
    two = one.share()
    assert two.model is one.model and two.conditioner is two.extras["cross_attention"]
    mine, yours = (dict(v.extras["cross_attention"].named_parameters()) for v in (one, two))
    assert all(mine[name] is not yours[name] and torch.equal(mine[name], yours[name]) for name in mine)
    batch = collate(base, world)
    with torch.no_grad():
        before = base.logits(batch, 2)
        open_gates(one)
        assert not torch.equal(one.logits(batch, 2), before)
        assert torch.equal(two.logits(batch, 2), before)
        assert torch.equal(base.logits(batch, 2), before)
    block = conditioning.decoder_blocks(base)[0]
    assert len(block._forward_pre_hooks) == 1


def test_initialisation_is_the_seeds_alone(world, composer) -> None:
    torch.manual_seed(1)
    one = arm(world[1], composer, *FORMS["serial"])
    state = torch.get_rng_state()
    two = arm(world[1], composer, *FORMS["serial"])
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one.extras["cross_attention"].parameters(), two.extras["cross_attention"].parameters(), strict=True):
        assert torch.equal(a, b)


@forms
def test_gradient_checkpointing_gives_the_same_gradients(world, composer, form) -> None:
    """A block that is run again in the backward pass hears the same images."""
    gradients = []
    for checkpointing in (False, True):
        changed = arm(world[1], composer, *form)
        open_gates(changed)
        batch = collate(changed, world)
        changed.model.train()
        capacity.recompute(changed, checkpointing)
        answer_loss(changed.predict(batch), batch.target.labels).backward()
        changed.model.eval()
        gradients.append([p.grad for p in changed.extras["cross_attention"].parameters()])
    assert any(g.abs().max() > 0 for g in gradients[0])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


# -------------------------------------------------------------------------------- training, saving, reloading


@pytest.mark.parametrize(
    ("form", "lora_option"),
    [
        ("serial", "llm"), ("parallel, no prefix", "none"),
        pytest.param("parallel", "none", marks=pytest.mark.bar), pytest.param("serial, no prefix", "llm", marks=pytest.mark.bar),
    ],
)
def test_trains_saves_reloads_and_evaluates(prepared, form, lora_option) -> None:
    make, shared = prepared
    x = make(*FORMS[form], f"lora={lora_option}", "vision_tokens=merge", "vision_tokens.budget=6")
    record = run.run_arm(x, shared, run.new_run(x, "test"), time.time())
    assert record.status == runs.FINISHED and record.metrics["visual_tokens/max"] == 6
    run_dir = runs.folder(Path(x.tracking.runs_dir), record.identity)
    vlm = run.assemble(x, model.load(x.model))
    adapter.load(vlm, run_dir / "adapter")
    saved = predictions.read(run_dir / "predictions" / "pairs.dev.parquet")
    again = scoring.score(vlm, shared.encoded(x)["dev"], readout(vlm.processor.tokenizer, x.prompt), x.evaluation, "dev")
    assert [list(row.said.log_p) for row in again] == saved.log_p.tolist()
    gates = [p for name, p in vlm.extras["cross_attention"].named_parameters() if name.endswith("gate")]
    assert all(gate.item() != 0.0 for gate in gates)


@pytest.fixture(scope="module")
def prepared(composer, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def make(*overrides: str):
        given = ("data.num_train=16", "data.num_minival=8", "data.num_dev=12", "trainer.max_steps=3", "trainer.batch_size=4")
        given += ("optim.lr=0.01", "evaluation.batch_size=4", "evaluation.latency_examples=0")
        given += ("evaluation.verify=false", "tracking.enabled=false")
        given += (f"tracking.runs_dir={folder}/runs", f"tracking.cache_dir={folder}/cache")
        return composer(f"model.path={tiny_folder}", *given, *overrides)

    return make, run.prepare(make())


def test_reloaded_logits_equal_saved_ones(world, composer, tmp_path: Path) -> None:
    """LoRA, resampler and cross-attention together, every logit of every position."""
    x = composer("lora=llm", *FORMS["serial"], "vision_tokens=resampler", "vision_tokens.budget=7")

    def assembled() -> Vlm:
        vlm = model.load(world[0].model)
        vision_tokens.install(vlm, x.vision_tokens)
        conditioning.install(vlm, x.conditioning)
        return vlm

    trained = assembled()
    lora.attach(trained, x.lora)
    torch.manual_seed(2)
    for parameter in lora.trainable(trained).values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = collate(trained, world)
    adapter.save(trained, tmp_path)
    fresh = assembled()
    adapter.load(fresh, tmp_path)
    trained.model.eval()
    with torch.no_grad():
        length = batch.prompt.ids.shape[1]
        assert torch.equal(fresh.logits(batch, length), trained.logits(batch, length))
        assert not torch.equal(assembled().logits(batch, length), trained.logits(batch, length))


# ------------------------------------------------------------------------------------------- counts and errors


@pytest.mark.parametrize("form", [FORMS["serial"], FORMS["parallel"]], ids=["serial", "parallel"])
def test_parameters_by_hand(world, composer, form) -> None:
    changed = arm(world[1], composer, *form, "conditioning.every=2", "conditioning.width=32", "conditioning.heads=2")
    module = changed.extras["cross_attention"]
    d, w, parallel, blocks = 128, 32, module.parallel, len(module.layers)
    attention = 4 * d * w + 24 * 2 * w + 2 * d + 1
    feeding = 0 if parallel else 2 * d + 2 * d + (d * 2 * w + 2 * w) + (2 * w * d + d) + 1
    assert sum(p.numel() for p in module.parameters()) == blocks * (attention + feeding)
    row = next(row for row in lora.ledger(changed) if row.part == "cross_attention")
    assert row.total == row.trainable == blocks * (attention + feeding)


def test_which_blocks(world, composer) -> None:
    def layers(*overrides: str) -> list[int]:
        return conditioning.chosen_blocks(composer("conditioning=cross_attention", *overrides).conditioning, 8)

    assert layers("conditioning.every=1") == list(range(8))
    assert layers("conditioning.every=2") == [1, 3, 5, 7]
    assert layers("conditioning.every=4") == [3, 7]
    assert layers("conditioning.every=null", "conditioning.layers=[5,0]") == [0, 5]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("conditioning=cross_attention", "conditioning.layers=[1]"), "give one of them"),
        (("conditioning=cross_attention", "conditioning.every=99"), "conditioning.every=99: the language model has"),
        (("conditioning=cross_attention", "conditioning.every=null", "conditioning.layers=[77]"), "from 0 to"),
        (("conditioning=cross_attention", "conditioning.heads=5"), "5 heads do not divide conditioning.width=64"),
        (("conditioning.name=cross_atention",), "Did you mean 'cross_attention'"),
        (("conditioning.width=8",), "conditioning.width=8: it belongs to conditioning=cross_attention"),
        (("conditioning.keep_prefix=false",), "conditioning.keep_prefix=False: it belongs to"),
    ],
)
def test_errors_name_the_key(world, composer, overrides, said) -> None:
    with pytest.raises(ConfigError, match=said):
        conditioning.install(world[1].share(), composer(*overrides).conditioning)


def test_nothing_to_train_is_still_refused(composer) -> None:
    with pytest.raises(ConfigError, match="lora=none leaves nothing to train"):
        composer("lora=none")
    composer("lora=none", "conditioning=cross_attention")
