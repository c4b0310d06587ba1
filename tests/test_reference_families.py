"""Families for comparison, asked as they were trained: two pictures and a statement. One property, every family."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from PIL import Image
from reference_checkpoints import MAKERS
from test_families import move, picture
from test_vqa_families import batch_of, labels_of, load, predict, sample
from tokenized_alike import require_alike

from lab import lora, model
from lab import run as running
from lab.cli import process_started
from lab.config import LoraDial, PromptDial
from lab.data.faults import BadRecord
from lab.data.images import decode
from lab.errors import ModelError
from lab.evaluation import generation
from lab.model import Vlm
from lab.model.batching import IGNORED
from lab.model.encoding import Encoder
from lab.model.tiles import Tiled
from lab.records import AnswerSpace, Text
from lab.training.losses import loss_of

pytestmark = pytest.mark.usefixtures("nominal_costs")

PROMPT = PromptDial(name="bare", template="{question}")
TEXTS = ("it is red", "there is a dark blue circle in the picture", "no?")
SAMPLES = [
    sample(i, text=text, images=(picture(i, 64 + 24 * i), picture(9 + i, 48, 80)), answer=Text((("True", "False")[i % 2],)))
    for i, text in enumerate(TEXTS)
]
"""Pairs of pictures of several sizes."""


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "smolvlm":
        pytest.importorskip("num2words")
    path = tmp_path_factory.mktemp("reference") / request.param
    checkpoints.save(request.param, path)
    return path


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Vlm:
    return load(folder)


NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-4}


def plain_inputs(vlm: Vlm, one, answered: bool) -> dict:
    """By Transformers' processor and the text of the prompt."""
    encoder = Encoder(vlm, PROMPT, answers=AnswerSpace("text", ()))
    architecture, chat, images = encoder.architecture, encoder.chat(one, plain=True), [decode(each) for each in one.images]
    if vlm.family.answers == "classes":
        return dict(architecture.plain(vlm.processor, [architecture.question(chat)], [chat], images))
    prompt, answer = architecture.frame(vlm.processor, chat, False)
    return dict(architecture.plain(vlm.processor, [prompt + answer * answered], [chat], images))


def test_what_is_computed_is_what_plain_transformers_computes(vlm: Vlm) -> None:
    """Ids and pixels of a prompt, the logits of its answer, and what is written greedily; each row of a padded batch and alone."""
    with torch.inference_mode():
        written = generation.texts(vlm, generation.write(vlm, batch_of(vlm, SAMPLES, answered=False), 5))
        alone = [predict(vlm, [one]) for one in SAMPLES]
        assert torch.allclose(predict(vlm, SAMPLES), torch.cat(alone), **NEAR)
        for one, text, found in zip(SAMPLES, written, alone, strict=True):
            inputs, labels = plain_inputs(vlm, one, answered=True), labels_of(batch_of(vlm, [one]))[0]
            logits = vlm.base_model(**inputs).logits
            if vlm.family.answers == "classes":
                assert text == vlm.base_model.config.id2label[int(logits.argmax())] and torch.allclose(found, logits, **NEAR)
                continue
            assert torch.allclose(found, logits[0, -len(labels) - 1 : -1], **NEAR)
            assert inputs["input_ids"][0, -len(labels) :].tolist() == labels.tolist()
            prompt, batch = plain_inputs(vlm, one, answered=False), batch_of(vlm, [one], answered=False).prompt
            assert batch.mask is not None and batch.ids[batch.mask.bool()].tolist() == prompt["input_ids"][0].tolist()
            told = vlm.base_model.generate(**prompt, do_sample=False, max_new_tokens=5)[:, prompt["input_ids"].shape[1] :]
            assert text == vlm.processor.batch_decode(told, skip_special_tokens=True)[0]


def own_loss(vlm: Vlm, one, number: int) -> float:
    """Transformers' own, of an answer of so many tokens or of a label."""
    inputs = plain_inputs(vlm, one, answered=True)
    if vlm.family.answers == "classes":
        labels = torch.tensor([vlm.base_model.config.label2id[one.answer.text]])
    else:
        labels = torch.full_like(inputs["input_ids"], IGNORED)
        labels[:, -number:] = inputs["input_ids"][:, -number:]
    with torch.no_grad():
        return float(vlm.base_model(**inputs, labels=labels).loss)


def test_each_picture_their_order_and_the_question_change_the_score(vlm: Vlm) -> None:
    one = SAMPLES[0]
    for changes in ({"images": (picture(90), one.images[1])}, {"images": one.images[::-1]}, {"text": "is it green?"}):
        assert (predict(vlm, [dataclasses.replace(one, **changes)]) - predict(vlm, [one])).abs().max() > 1e-3


def test_presets_name_every_linear_layer_and_all_adapters_learn(folder: Path) -> None:
    vlm = load(folder)
    assert {vlm.family.part_of(name) for name, _ in vlm.model.named_parameters()} <= {"vision", "projector", "llm"}
    linears = {name for name, module in vlm.base_model.named_modules() if isinstance(module, torch.nn.Linear)}
    heads = {name for name, module in vlm.base_model.named_modules() if module is vlm.base_model.get_output_embeddings()}
    where = [name for name in ("vision", "projector", "llm") if vlm.family.parts[name].targets("all-linear")]
    assert set(lora.target_names(vlm, LoraDial(where=where, target_modules="all-linear"))) == linears - heads
    unread = r"model\.vision_tower\.encoder\.layers\.2\." if vlm.family.name == "llava_next" else r"$^"
    lora.attach(vlm, LoraDial(r=2, where=where))
    move(vlm)
    batch = batch_of(vlm, SAMPLES)
    value = loss_of(vlm.family)(vlm.predict(batch), labels_of(batch))
    numbers = [batch_of(vlm, [one]).target.tokens for one in SAMPLES]
    own = [own_loss(vlm, one, number) * number for one, number in zip(SAMPLES, numbers, strict=True)]
    assert float(value.detach()) == pytest.approx(sum(own) / sum(numbers), abs=1e-4)
    value.backward()
    learning = [parameter.grad for name, parameter in lora.trainable(vlm).items() if not re.search(unread, name)]
    assert all(gradient is not None and gradient.any() for gradient in learning)


def test_vilt_compares_two_pictures_alone(tmp_path: Path) -> None:
    checkpoints.save("vilt_nlvr2", tmp_path / "vilt_nlvr2")
    encoder = Encoder(load(tmp_path / "vilt_nlvr2"), PROMPT, answers=AnswerSpace("text", ()))
    for number in (1, 3):
        with pytest.raises(BadRecord, match=f"sample s0: it shows {number} images, and the model (compares|takes) 2"):
            encoder.text(sample(0, images=(picture(0),) * number))


def test_tiles_are_those_that_the_processor_makes(tmp_path: Path) -> None:
    """Of any size, before the picture is decoded; without num2words SmolVLM2 says so before anything loads."""
    checkpoints.save("idefics3", tmp_path / "idefics3")
    encoder = Encoder(load(tmp_path / "idefics3"), PROMPT, answers=AnswerSpace("text", ()))
    images = encoder.processor.image_processor
    assert isinstance(encoder.architecture, Tiled)
    for edge in (64, 100, 32):
        images.size = {"longest_edge": edge}
        for size in ((40, 30), (33, 50), (64, 64), (999, 400), (17, 223), (3, 200), (31, 33), (65, 64)):
            made = images([[Image.new("RGB", size)]], return_row_col_info=True)
            rows, columns = made["rows"][0][0], made["cols"][0][0]
            assert encoder.architecture.cut(images, size) == (rows, columns)
            assert encoder.architecture.grid(encoder.processor, encoder.config, size)[0] == len(made["pixel_values"][0])


def test_pictures_of_idefics2_are_those_that_the_processor_makes(tmp_path: Path) -> None:
    """Whole and split, of any size; but for pixels of patches that are not whole, which the tower does not see."""
    checkpoints.save("idefics2", tmp_path / "idefics2")
    encoder = Encoder(load(tmp_path / "idefics2"), PROMPT, answers=AnswerSpace("text", ()))
    images = encoder.processor.image_processor
    for images.do_image_splitting in (True, False):
        for size in ((40, 30), (33, 50), (999, 400), (400, 999), (17, 223), (2, 20), (48, 24)):
            image = Image.effect_noise(size, 90).convert("RGB")
            made = images([[image]], return_tensors="pt")
            pixels, grids = encoder.architecture.pixels(encoder.processor, encoder.config, [image])
            assert grids == [encoder.architecture.grid(encoder.processor, encoder.config, size)]
            ours = encoder.architecture.stack(pixels, grids)
            height, width = ours["pixel_values"].shape[-2:]
            whole = ours["pixel_attention_mask"].bool().unsqueeze(2)
            assert torch.equal(ours["pixel_values"], made["pixel_values"][..., :height, :width] * whole)
    images.do_image_splitting = True
    with pytest.raises(BadRecord, match="does not take its 1 x 40 pixels .a side of one pixel cannot be split"):
        encoder.text(sample(0, images=(picture(0, 1, 40),)))


def test_a_picture_of_any_size_costs_what_the_processor_writes(tmp_path: Path) -> None:
    """LLaVA-NeXT's, before it is decoded; another canvas than the model's is refused."""
    checkpoints.save("llava_next", tmp_path / "llava_next")
    encoder = Encoder(load(tmp_path / "llava_next"), PROMPT, answers=AnswerSpace("text", ()))
    for size in ((40, 30), (33, 50), (64, 64), (999, 400), (17, 223), (3, 200), (31, 33), (65, 64), (100, 7)):
        made = encoder.processor(text="<image>", images=Image.new("RGB", size), return_tensors="pt")
        grid = encoder.architecture.grid(encoder.processor, encoder.config, size)
        assert encoder.tokens(grid) == int((made["input_ids"] == encoder.image_id).sum())
        assert encoder.architecture.pixel_shape(encoder.config, grid) == tuple(made["pixel_values"].shape[1:])
    settings = tmp_path / "llava_next" / "processor_config.json"
    settings.write_text(settings.read_text().replace("96", "128"))
    with pytest.raises(ModelError, match="image_grid_pinpoints: its processor has .*128, 32"):
        load(tmp_path / "llava_next")


def test_what_a_processor_needs_is_said_before_anything_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.model.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="model.family=smolvlm: its processor needs num2words, .* pip install num2words"):
        model.check(checkpoints.ModelDial(name="smolvlm", family="smolvlm", path="there/is-none"))


ASKED_BY = {"vilt_nlvr2": "statement", "paligemma_3b_nlvr2": "paligemma", "paligemma2_3b": "paligemma"}
ARMS = ("vilt_nlvr2", "paligemma2_3b", "idefics2_8b", "llava_next_mistral_7b")
BARS = ("paligemma_3b_nlvr2", "idefics3_8b", "smolvlm", "smolvlm2_2_2b")
"""Of their architectures, or of one that extends it."""


@pytest.mark.parametrize("option", [*ARMS, *(pytest.param(option, marks=pytest.mark.bar) for option in BARS)])
def test_an_arm_trains_is_read_again_and_passes_the_gate(option: str, composer, tmp_path: Path) -> None:
    x = composer(f"model={option}")
    checkpoints.save(x.model.family, tmp_path / "checkpoint")
    x = composer(
        f"model={option}", f"model.path={tmp_path}/checkpoint", f"prompt={ASKED_BY.get(option, 'declarative')}", "data.num_train=8",
        "data.num_minival=4", "data.num_dev=4", "trainer.max_steps=2", "trainer.batch_size=2", "evaluation.probe_examples=2",
        "evaluation.latency_examples=1", "evaluation.latency_warmup=0", "tracking.enabled=false", f"tracking.runs_dir={tmp_path}/runs",
        f"tracking.cache_dir={tmp_path}/cache",
    )  # fmt: skip
    record = running.run_alone(x, "test", process_started())
    checks = {check["name"]: check["passed"] for check in record.facts["verify"]}
    padded = None if option == "vilt_nlvr2" else True
    assert checks == {"reloaded": True, "batch of one": True, "right padding": padded, "plain folder": True, "generate": True}
    assert math.isfinite(record.metrics["train/loss"]) and 0 < record.metrics["dev/captured_mass"] < 1 + 1e-6


def test_prompts_and_pictures_of_many_are_those_of_each(vlm: Vlm) -> None:
    require_alike(Encoder(vlm, PROMPT, answers=AnswerSpace("text", ())), SAMPLES)
