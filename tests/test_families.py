"""The same contract for every model family, on small random checkpoints made on the spot."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from grid.dimensions import options
from PIL import Image
from tokenized_alike import require_alike

from lab import lora, model
from lab.artifacts import adapter
from lab.config import Experiment, LoraDial, PromptDial
from lab.errors import ModelError
from lab.evaluation.scoring import answer_logits
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.paths import AUTO
from lab.records import Choice, Picture, Sample

pytestmark = pytest.mark.usefixtures("nominal_costs")

PROMPT = PromptDial(name="declarative", template="Statement: {statement}\nAnswer 'True' or 'False'.")
TEXTS = ("there is a red circle", "the left image has two blue squares and a star", "no", "the same number of circles")
CLOSE = {"rtol": 0.0, "atol": 2e-5}


def picture(seed: int, width: int = 64, height: int = 64) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return Picture(f"image {seed}", out.getvalue())


def sample(index: int, ragged: bool) -> Sample:
    """Two images and a sentence; ragged: of sizes and lengths that differ between samples."""
    wide = 64 + 32 * (index % 3) if ragged else 64
    text = TEXTS[index % len(TEXTS)] if ragged else TEXTS[0]
    images = (picture(2 * index, wide), picture(2 * index + 1))
    return Sample(f"s{index}", text, images, Choice.truth(index % 2 == 0), f"set{index}", text)


@pytest.fixture(scope="module", params=checkpoints.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("families") / request.param
    checkpoints.save(request.param, path)
    return path


def load(folder: Path) -> Vlm:
    return model.load(checkpoints.ModelDial(name=folder.name, family=folder.name, path=str(folder)))


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return load(folder)


def logits(vlm: Vlm, samples: list[Sample], features: bool = False) -> torch.Tensor:
    encoder = Encoder(vlm, PROMPT)
    batch = encoder.collate([encoder.example(one) for one in samples], with_answers=False)
    if features:
        images = vlm.encode_images(batch.media.pixels)
        batch = batch.seen(images)
    vlm.model.eval()
    with torch.inference_mode():
        return answer_logits(vlm, batch)


def test_every_family_has_its_options() -> None:
    """A family is a module of lab/model and at least one file of conf/model, nothing else."""
    import yaml

    folder = Path(__file__).parents[1] / "conf" / "model"
    named = {yaml.safe_load((folder / f"{option}.yaml").read_text())["family"] for option in options("model")}
    assert set(checkpoints.FAMILIES) <= set(model.FAMILIES)
    assert set(checkpoints.FAMILIES) <= named <= {*model.FAMILIES, AUTO}


def test_another_family_is_refused(folder: Path) -> None:
    other = next(name for name in checkpoints.FAMILIES if name != folder.name)
    with pytest.raises(ModelError, match=f"of type '{folder.name}', not '{other}'"):
        model.load(checkpoints.ModelDial(name="x", family=other, path=str(folder)))


def test_parts_cover_every_parameter(vlm: Vlm) -> None:
    parts = {vlm.family.part_of(name) for name, _ in vlm.model.named_parameters()}
    assert parts == {"vision", "projector", "llm"}
    rows = lora.ledger(vlm)
    assert [row.part for row in rows] == ["vision", "projector", "llm"]
    assert sum(row.total for row in rows) == vlm.model.num_parameters()


def test_every_linear_layer_but_the_head_is_a_target(vlm: Vlm) -> None:
    """The three presets of the three parts together name all linear layers, once, and nothing else."""
    linears = {name for name, module in vlm.base_model.named_modules() if isinstance(module, torch.nn.Linear)} - {"lm_head"}
    assert set(lora.target_names(vlm, LoraDial(where=["vision", "projector", "llm"]))) == linears


def test_encoding_equals_the_processors_own_call(vlm: Vlm) -> None:
    one = sample(1, ragged=True)
    encoder = Encoder(vlm, PROMPT)
    batch = encoder.collate([encoder.example(one)], with_answers=False)
    content = [{"type": "image"}, {"type": "text", "text": "\n"}] * 2
    content.append({"type": "text", "text": PROMPT.template.format(statement=one.text)})
    text = vlm.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [Image.open(io.BytesIO(image.data or b"")) for image in one.images]
    theirs = vlm.processor(text=[text], images=images, return_tensors="pt")
    shown = batch.prompt.mask[0].bool()  # without what the collator pads on the left
    assert torch.equal(batch.prompt.ids[:, shown], theirs["input_ids"])
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in batch.media.pixels.items())
    assert torch.equal(batch.prompt.types[:, shown], theirs["mm_token_type_ids"])
    with torch.inference_mode():
        plain = vlm.model(**theirs).logits[:, -1]
    assert torch.allclose(logits(vlm, [one]), plain, **CLOSE)


def test_batch_size_changes_no_score(vlm: Vlm) -> None:
    samples = [sample(i, ragged=False) for i in range(4)]
    alone = torch.cat([logits(vlm, [one]) for one in samples])
    assert torch.allclose(logits(vlm, samples), alone, **CLOSE)
    assert alone.std(dim=0).max() > 1e-2, "the samples must differ for this to mean anything"


def test_left_padding_changes_no_score(vlm: Vlm) -> None:
    """Sentences and images of many lengths in one batch answer as each does alone (lmms-eval 970)."""
    samples = [sample(i, ragged=True) for i in range(4)]
    alone = torch.cat([logits(vlm, [one]) for one in samples])
    assert torch.allclose(logits(vlm, samples), alone, **CLOSE)


def test_the_answer_depends_on_each_image_and_their_order(vlm: Vlm) -> None:
    one = sample(0, ragged=False)
    first = logits(vlm, [one])
    for images in ((picture(90), one.images[1]), (one.images[0], picture(91)), one.images[::-1]):
        assert (logits(vlm, [dataclasses.replace(one, images=images)]) - first).abs().max() > 1e-3


def test_features_stand_for_an_image_only_where_they_are_all_of_it(vlm: Vlm) -> None:
    samples = [sample(i, ragged=True) for i in range(3)]
    if vlm.family.offers("feature_cache"):
        assert torch.allclose(logits(vlm, samples, features=True), logits(vlm, samples), **CLOSE)
    else:
        with pytest.raises(ModelError, match="DeepStack"):
            logits(vlm, samples, features=True)


@pytest.mark.parametrize("budget", [4, 9, 16])
def test_the_resize_budget_is_kept(folder: Path, budget: int) -> None:
    from lab import vision_tokens
    from lab.config import VisionTokensDial

    vlm = load(folder)
    vision_tokens.install(vlm, VisionTokensDial(name="resize", budget=budget))
    encoder = Encoder(vlm, PROMPT)
    counts = []
    for image in (picture(0, 256, 256), picture(1, 384, 128), picture(2, 64, 64)):
        _, grid = encoder.picture(image)
        counts.append(encoder.tokens(grid))
    assert max(counts) <= budget
    assert max(counts) > budget / 2, "a budget is not only kept but used"


@pytest.mark.parametrize("part", ["vision", "projector", "llm"])
def test_adapters_of_each_part_act_save_and_reload(folder: Path, part: str, tmp_path: Path) -> None:
    """Fresh: nothing changes, bit for bit. Moved: logits change, and the saved adapter gives exactly the same ones."""
    samples = [sample(i, ragged=True) for i in range(2)]
    vlm = load(folder)
    bare = logits(vlm, samples)
    lora.attach(vlm, LoraDial(r=4, where=[part]))
    rows = {row.part: row for row in lora.ledger(vlm)}
    assert rows[part].trainable > 0
    assert all(row.trainable == 0 for name, row in rows.items() if name != part)
    assert torch.equal(logits(vlm, samples), bare)
    move(vlm)
    moved = logits(vlm, samples)
    assert (moved - bare).abs().max() > 1e-3
    adapter.save(vlm, tmp_path)
    again = load(folder)
    adapter.load(again, tmp_path)
    assert torch.equal(logits(again, samples), moved)
    lora.detach(vlm)
    assert torch.equal(logits(vlm, samples), bare)


def move(vlm: Vlm) -> None:
    """Stand in for training: give every trainable matrix other values."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in lora.trainable(vlm).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_the_last_blocks_alone(vlm: Vlm) -> None:
    names = lora.target_names(vlm, LoraDial(where=["vision", "llm"], top_k_blocks=1, target_modules="attention"))
    assert {name.split(".")[3] for name in names} == {"2"}
    assert len(names) == 2 + 4


def test_an_arm_trains_with_and_without_the_feature_cache(
    folder: Path, composer: Callable[..., Experiment], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The whole way of an experiment. Where features are not all of an image the cache is off, and this is said."""
    from lab import run
    from lab.config import identity

    settings = [f"model.path={folder}", f"model.family={folder.name}", "trainer.max_steps=2", "trainer.batch_size=4"]
    settings += ["data.num_train=8", "data.num_minival=4", "data.num_dev=8", "evaluation.latency_examples=0"]
    settings += ["evaluation.verify=false", "tracking.enabled=false"]
    settings += [f"tracking.runs_dir={tmp_path}/runs", f"tracking.cache_dir={tmp_path}/cache"]
    x = composer(*settings)
    single = model.family(folder.name).offers("feature_cache")
    with caplog.at_level("WARNING"):
        prepared = run.prepare(x)
    assert ("features are not cached: model.family=" in caplog.text) is not single
    assert (tmp_path / "cache" / "features").exists() is single
    record = run.run_arm(x, prepared, run.new_run(x, "test"), 0.0)
    assert record.metrics["train/steps"] == 2
    assert (tmp_path / "runs" / identity(x) / "adapter" / "adapter_model.safetensors").is_file()
    pooled = composer(*settings, "vision_tokens=pool", "vision_tokens.budget=4")
    if single:
        assert run.assemble(pooled, prepared.vlm).reducer is not None
    else:
        with pytest.raises(ModelError, match="DeepStack"):
            run.assemble(pooled, prepared.vlm)


def test_gradients_reach_every_adapter(folder: Path) -> None:
    """One backward pass through images and text leaves no adapter without a gradient in B (A's is 0 while B is)."""
    from lab.training.losses import answer_loss

    vlm = load(folder)
    lora.attach(vlm, LoraDial(r=2, where=["vision", "projector", "llm"]))
    encoder = Encoder(vlm, PROMPT)
    batch = encoder.collate([encoder.example(sample(i, ragged=True)) for i in range(2)], with_answers=True)
    answer_loss(vlm.predict(batch), batch.target.labels).backward()
    dead = [name for name, p in lora.trainable(vlm).items() if "lora_B" in name and not p.grad.any()]
    assert not dead


def test_prompts_and_pictures_of_many_are_those_of_each(vlm: Vlm) -> None:
    require_alike(Encoder(vlm, PROMPT), [sample(index, ragged=True) for index in range(4)])
