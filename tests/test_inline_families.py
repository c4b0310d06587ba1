"""Families whose answers follow the prompt and whose images are of one size: one property, every family."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from pathlib import Path

import checkpoints
import pytest
import torch
from inline_checkpoints import MAKERS
from kills import require_cut_ends_as
from reference_checkpoints import MAKERS as REFERENCES
from test_families import CLOSE, move, picture
from test_vqa_families import SAMPLES, arms_of, batch_of, load, loss, predict, require_learned_and_written_back, sample
from tokenized_alike import require_alike

from lab import lora, model
from lab import run as running
from lab.artifacts import export
from lab.config import LoraDial, PromptDial
from lab.data.images import decode
from lab.errors import ModelError
from lab.evaluation import generation
from lab.model import Vlm
from lab.model.batching import IGNORED
from lab.model.encoding import Encoder
from lab.records import AnswerSpace, Text
from lab.training import capacity
from lab.training.fast.fused_step import FusedStep

pytestmark = pytest.mark.usefixtures("nominal_costs")

PROMPT = PromptDial(name="bare", template="{question}")
DEAD = {
    "llava": r"model\.vision_tower\.encoder\.layers\.2\.",
    "instructblip_vicuna": r"qformer\.encoder\.layer\.1\.(intermediate|output)\.dense",
}
"""Layers whose outputs nothing reads."""


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inline") / request.param
    checkpoints.save(request.param, path)
    return path


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return load(folder)


def plain_inputs(vlm: Vlm, one, answered: bool) -> dict:
    """By Transformers' processor and the text of the prompt."""
    encoder = Encoder(vlm, PROMPT, answers=AnswerSpace("text", ()))
    chat = encoder.chat(one)
    prompt, answer = encoder.architecture.frame(vlm.processor, chat, False)
    images = [decode(each) for each in one.images]
    return dict(encoder.architecture.plain(vlm.processor, [prompt + answer * answered], [chat], images))


def test_prompts_are_those_of_the_checkpoints_processor(vlm: Vlm) -> None:
    """One call of it for a question about one picture, ids and pixels alike."""
    if vlm.family.name == "git":
        pytest.skip("its processor puts the end token behind the question")
    one = SAMPLES[1]
    encoder, batch = Encoder(vlm, PROMPT, answers=AnswerSpace("text", ())), batch_of(vlm, [one], answered=False)
    text = encoder.architecture.frame(vlm.processor, encoder.chat(one), False)[0]
    text = text if vlm.family.name == "llava" else text.removeprefix("<image>")
    theirs = vlm.processor(text=text, images=decode(one.images[0]), return_tensors="pt")
    assert batch.prompt.ids[batch.prompt.mask.bool()].tolist() == theirs["input_ids"][0].tolist()
    assert torch.equal(batch.media.pixels["pixel_values"], theirs["pixel_values"])
    assert all(torch.equal(value, theirs[name]) for name, value in batch.media.pixels.items() if name.startswith("qformer"))


def test_a_row_alone_is_the_row_in_a_batch(vlm: Vlm) -> None:
    alone = torch.cat([predict(vlm, [one]) for one in SAMPLES])
    assert torch.allclose(predict(vlm, SAMPLES), alone, **CLOSE)
    assert alone.std(dim=0).max() > 1e-2, "the samples must differ for this to mean anything"


def test_the_loss_is_transformers_own(vlm: Vlm) -> None:
    with torch.inference_mode():
        for one in SAMPLES[:2]:
            inputs = plain_inputs(vlm, one, answered=True)
            labels = torch.full_like(inputs["input_ids"], IGNORED)
            number = batch_of(vlm, [one]).target.tokens
            labels[:, -number:] = inputs["input_ids"][:, -number:]
            assert float(loss(vlm, [one])) == pytest.approx(float(vlm.base_model(**inputs, labels=labels).loss), abs=1e-4)


def test_the_fast_step_computes_the_same(folder: Path) -> None:
    vlm = load(folder)
    lora.attach(vlm, LoraDial(r=2))
    move(vlm)
    batch = batch_of(vlm, SAMPLES)
    counted = batch.target.labels != IGNORED
    with torch.no_grad():
        assert torch.allclose(FusedStep(vlm).predict(batch)[counted], vlm.predict(batch)[counted], rtol=0, atol=1e-4)


def test_loss_is_taken_of_the_answer_and_its_end_and_a_question_changes_no_label(vlm: Vlm) -> None:
    batch = batch_of(vlm, SAMPLES)
    other = batch_of(vlm, [dataclasses.replace(one, text="what is it?") for one in SAMPLES])
    assert torch.equal(batch.target.labels, other.target.labels)
    for row, one in zip(batch.target.labels, SAMPLES, strict=True):
        assert int(row[row != IGNORED][-1]) in generation.end_ids(vlm)
        assert vlm.family.architecture.texts(vlm, [row[row != IGNORED]])[0].strip() == one.answer.text


def test_what_is_written_is_what_plain_transformers_writes(vlm: Vlm) -> None:
    """Greedy writing of a padded batch against `generate` on each question alone, with one picture and with two."""
    samples = SAMPLES if vlm.family.architecture.most_images == 1 else [*SAMPLES, sample(0, images=(picture(0), picture(1)))]
    with torch.inference_mode():
        written = generation.texts(vlm, generation.write(vlm, batch_of(vlm, samples, answered=False), 5))
        for one, text in zip(samples, written, strict=True):
            inputs = plain_inputs(vlm, one, answered=False)
            told = vlm.base_model.generate(**inputs, do_sample=False, max_new_tokens=5)[:, inputs["input_ids"].shape[1] :]
            assert text == vlm.processor.batch_decode(told, skip_special_tokens=True)[0]


def test_each_picture_their_order_and_the_question_change_the_score(vlm: Vlm) -> None:
    one = sample(0, images=(picture(0), picture(1))[: vlm.family.architecture.most_images])
    for changes in ({"images": (picture(90), *one.images[1:])}, {"images": (*one.images[1:], picture(9))}, {"text": "is it green?"}):
        assert (predict(vlm, [dataclasses.replace(one, **changes)]) - predict(vlm, [one])).abs().max() > 1e-3


def test_presets_name_every_linear_layer_but_the_head(vlm: Vlm) -> None:
    assert {vlm.family.part_of(name) for name, _ in vlm.model.named_parameters()} == {"vision", "projector", "llm"}
    linears = {name for name, module in vlm.base_model.named_modules() if isinstance(module, torch.nn.Linear)}
    heads = {name for name, module in vlm.base_model.named_modules() if module is vlm.base_model.get_output_embeddings()}
    where = ["vision", "projector", "llm"]
    targets = {preset: set(lora.target_names(vlm, LoraDial(where=where, target_modules=preset))) for preset in ("attention", "mlp", "all-linear")}
    assert targets["all-linear"] == linears - heads and not targets["attention"] & targets["mlp"]


def test_every_adapter_has_a_gradient_also_when_activations_are_computed_again(folder: Path) -> None:
    grads = []
    for again in (False, True):
        vlm = load(folder)
        lora.attach(vlm, LoraDial(r=2, where=["vision", "projector", "llm"]))
        move(vlm)
        vlm.model.train()
        capacity.recompute(vlm, again)
        torch.manual_seed(0)  # of dropout
        loss(vlm, SAMPLES).backward()
        grads.append({name: parameter.grad for name, parameter in lora.trainable(vlm).items()})
    dead = [name for name, grad in grads[0].items() if grad is None or not grad.any()]
    assert all(re.search(DEAD.get(folder.name, "(?!)"), name) for name in dead)
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items() if grad is not None)


def test_a_half_precision_base_trains(folder: Path) -> None:
    vlm = load(folder, dtype=checkpoints.DType.bfloat16)
    lora.attach(vlm, LoraDial(r=2, where=["vision", "projector", "llm"]))
    value = loss(vlm, SAMPLES)
    value.backward()
    assert value.isfinite() and {p.dtype for p in lora.trainable(vlm).values()} == {torch.float32}


def test_an_adapter_is_read_again_and_a_merged_folder_answers_as_it_does(folder: Path, tmp_path: Path) -> None:
    from lab.artifacts import adapter

    vlm = load(folder)
    lora.attach(vlm, LoraDial(r=2, where=["vision", "projector", "llm"]))
    move(vlm)
    before = predict(vlm, SAMPLES)
    adapter.save(vlm, tmp_path / "adapter")
    again = load(folder)
    adapter.load(again, tmp_path / "adapter")
    placed = lora.parameters(again)
    assert all(torch.equal(placed[name], value) for name, value in lora.trainable(vlm).items())
    assert torch.allclose(predict(again, SAMPLES), before, **CLOSE)
    export.export(vlm, tmp_path / "merged", {})
    (tmp_path / folder.name).symlink_to(tmp_path / "merged")
    assert torch.allclose(predict(load(tmp_path / folder.name), SAMPLES), before, rtol=0, atol=1e-4)


def test_features_stand_for_an_image_where_no_question_is_read_with_it(vlm: Vlm) -> None:
    batch = batch_of(vlm, SAMPLES)
    with torch.inference_mode():
        features = batch.seen(vlm.encode_images(batch.media.pixels))
        assert torch.allclose(vlm.predict(features), vlm.predict(batch), **CLOSE)
    assert vlm.family.offers("feature_cache") is (vlm.family.name != "instructblip_vicuna")


def test_a_processor_that_writes_other_image_tokens_is_refused(folder: Path, tmp_path: Path) -> None:
    import json
    import shutil

    if folder.name == "git":
        pytest.skip("no token of an image stands in its prompt")
    shutil.copytree(folder, tmp_path / folder.name)
    file = tmp_path / folder.name / "processor_config.json"
    values = json.loads(file.read_text())
    key = "num_additional_image_tokens" if folder.name == "llava" else "num_query_tokens"
    file.write_text(json.dumps(values | {key: None if key == "num_query_tokens" else 0}))
    with pytest.raises(ModelError, match="its processor (makes 15 tokens|writes None image tokens)"):
        load(tmp_path / folder.name)


@pytest.mark.parametrize("option", ["pool", "resampler", "prune", "merge"])
def test_llavas_images_can_cost_fewer_tokens(option: str, tmp_path: Path) -> None:
    """After the projector, from the same features; the text counts on behind what is left."""
    from lab import vision_tokens
    from lab.config import VisionTokensDial

    checkpoints.save("llava", tmp_path / "llava")
    vlm = load(tmp_path / "llava")
    vision_tokens.install(vlm, VisionTokensDial(name=option, budget=4))
    pair = sample(0, images=(picture(0), picture(1)))
    batch = batch_of(vlm, [pair, *SAMPLES])
    assert batch.media.tokens == (4,) * 6 and int(batch.prompt.types.sum()) == 24
    alone = torch.cat([predict(vlm, [one]) for one in (pair, *SAMPLES)])
    assert torch.allclose(predict(vlm, [pair, *SAMPLES]), alone, **CLOSE)


@pytest.mark.bar
def test_ten_pairs_are_learned_and_written_back_with_their_end(folder: Path) -> None:
    words = ("red", "green", "dark blue", "no", "yes", "a circle", "two", "short", "phrase", "statement")
    samples = [sample(i, images=(picture(i),), text=f"what is {i}?", answer=Text((words[i],))) for i in range(10)]
    vlm = load(folder)
    lora.attach(vlm, LoraDial(r=16, where=["projector", "llm"]))
    require_learned_and_written_back(vlm, samples, lora.trainable(vlm).values(), 5e-3)


OTHERS = ("vit_gpt2", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", *REFERENCES)
"""Inline families that have tests of their own."""
BARS = ("blip2_opt_2_7b", "instructblip_vicuna_7b", "git_base_vqav2")
"""What trains as the first does, and whose every computation is compared above."""


@pytest.fixture(scope="module", params=["llava_1_5_7b", *(pytest.param(name, marks=pytest.mark.bar) for name in BARS)])
def compose(request: pytest.FixtureRequest, composer, tmp_path_factory: pytest.TempPathFactory):
    return arms_of(request.param, composer, tmp_path_factory.mktemp("arms"))


@pytest.fixture(scope="module")
def shared(compose):
    """Two arms over one base."""
    arms = [compose("lora.r=2"), compose("lora.r=4")]
    prepared = running.prepare(arms[0])
    return arms, [running.run_arm(x, prepared, running.new_run(x, "command"), time.time()) for x in arms]


def test_arms_train_answer_and_pass_the_gate(shared) -> None:
    for run in shared[1]:
        checks = {check["name"]: check["passed"] for check in run.facts["verify"]}
        assert checks == {"reloaded": True, "batch of one": True, "right padding": True, "plain folder": True, "generate": True}
        assert run.metrics["train/steps"] == 3 and math.isfinite(run.metrics["dev/token_nll"])


def test_an_arm_alone_and_cut_off_ends_as_the_shared_one(shared, compose, monkeypatch) -> None:
    x = compose("lora.r=4", where="alone")
    require_cut_ends_as(shared[0][1], x, monkeypatch, 2)


def test_every_family_is_here() -> None:
    """Of one picture's size and inline."""
    assert set(MAKERS) == {name for name in model.FAMILIES if model.family(name).answers == "inline" and name not in OTHERS}


def test_prompts_and_pictures_of_many_are_those_of_each(vlm: Vlm) -> None:
    require_alike(Encoder(vlm, PROMPT, answers=AnswerSpace("text", ())), SAMPLES)
