"""Arms that answer with boxes: trained, asked, verified, kept, asked again; and what a family or a record may not be asked for so."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import openai_server
import pytest
import torch
from box_texts import check_round_trip
from kills import require_cut_ends_as
from PIL import Image, ImageDraw

from lab import data
from lab import run as running
from lab.answers import predictions, regions
from lab.answers.box_formats import WRITTEN
from lab.artifacts import contract
from lab.bounds import WORDS
from lab.config import identity
from lab.data.faults import BadRecord
from lab.errors import ConfigError, ModelError
from lab.evaluation import asking, locating
from lab.export import export_run
from lab.host.stopping import Stopped
from lab.records import Region, Regions
from lab.run import endpoint
from lab.run.predicting import Predictor
from lab.store import curve_files, runs

pytestmark = pytest.mark.usefixtures("nominal_costs", "blank_figures")

SMALL = (
    "trainer.max_steps=2", "trainer.batch_size=2", "trainer.save_every=1", "evaluation.latency_examples=1", "evaluation.latency_warmup=0",
    "evaluation.probe_examples=2", "evaluation.max_new_tokens=8", "tracking.enabled=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def compose(composer, tiny_folder, tmp_path_factory):
    """Experiments on a file of boxes in drawn pictures; where: the name of their folder of runs."""
    root = tmp_path_factory.mktemp("boxes")
    lines = []
    for i in range(12):
        picture, boxes = Image.new("RGB", (84 + 28 * (i % 3), 84), "white"), [[10 + i, 8, 40 + i, 60]] * (i % 3 > 0)
        for box in boxes:
            ImageDraw.Draw(picture).rectangle(box, fill="navy")
        picture.putpixel((i, 0), (i, 0, 0))  # no two are alike
        picture.save(root / f"{i}.png")
        part = "train" if i < 6 else "minival" if i < 8 else "dev"
        lines.append(json.dumps({"image": f"{i}.png", "boxes": boxes, "labels": ["table"] * len(boxes), "split": part}))
    (root / "boxes.jsonl").write_text("\n".join(lines) + "\n")

    def make(*overrides: str, where: str = "shared"):
        places = (f"data.path={root / 'boxes.jsonl'}", f"tracking.runs_dir={root / where}", f"tracking.cache_dir={root / 'cache'}")
        return composer("data=boxes", f"model.path={tiny_folder}", *places, *SMALL, *overrides)

    return make


@pytest.fixture(scope="module")
def shared(compose):
    """Two arms over one base, their records, and what they share."""
    arms = [compose("lora.r=2"), compose("lora.r=4")]
    prepared = running.prepare(arms[0])
    return arms, [running.run_arm(x, prepared, running.new_run(x, "command"), time.time()) for x in arms], prepared


def folder(x) -> Path:
    return runs.folder(Path(x.tracking.runs_dir), identity(x))


def test_an_arm_learns_boxes_and_passes_the_gate(shared) -> None:
    arms, records, prepared = shared
    for x, run in zip(arms, records, strict=True):
        checks = {check["name"]: check for check in run.facts["verify"]}
        assert len(checks) == 5 and all(check["passed"] for check in checks.values()), checks
        table = predictions.read(runs.predictions_file(folder(x), "boxes", "dev"))
        assert table.kind == "regions" and set(table.boxes) == {"qwen2"} and (table.tokens <= 8).all() and len(table) == 4
        assert [len(one) for one in table.references] == [0 if i % 3 == 0 else 1 for i in range(8, 12)]
        assert [len(one) for one in table.scores] == [len(one) for one in table.regions]
    assert contract.load(folder(arms[0]))["answers"] == {"kind": "regions", "boxes": "qwen2", "max_new_tokens": 8}
    assert prepared.splits.kind == "regions"


def test_an_arm_alone_and_cut_off_ends_as_the_shared_one(shared, compose, monkeypatch) -> None:
    x = compose("lora.r=4", where="alone")
    require_cut_ends_as(shared[0][1], x, monkeypatch, 1)


def test_boxes_are_exported_and_a_server_of_them_is_verified(shared, tmp_path, export_asked_here) -> None:
    """Their text is compared with the tokens that stand for boxes."""
    x, record = shared[0][0], shared[1][0]
    assert "4 of 4 answers equal" in export_run(Path(x.tracking.runs_dir), record.identity, tmp_path / "out")
    served = openai_server.Served(running.reload(x, folder(x)), record.identity)
    asked = endpoint.questions(record, folder(x), x, 32)
    with openai_server.running(served) as url, contextlib.closing(endpoint.Endpoint(url, None, record.identity)) as server:
        checks = endpoint.replay(asked, server, "base")
    assert {check.name: check.passed for check in checks}["stored answers"] and all(body["skip_special_tokens"] is False for body in served.requests)


def test_a_look_at_minival_writes_boxes_and_the_best_weights_follow_them(compose) -> None:
    x = compose("trainer.val_every=1", "trainer.patience=3", "trainer.restore_best=true", where="watched")
    run = running.run_alone(x, "command", time.time())
    looks = [row for row in curve_files.read(folder(x)) if "minival/mean_iou" in row]
    assert [row["step"] for row in looks] == [0, 1] and all(0 <= row["minival/picture_f1"] <= 1 for row in looks)
    best = max(looks, key=lambda row: (row["minival/mean_iou"], -row["step"]))
    assert run.metrics["train/best_step"] == best["step"] + 1
    assert run.metrics["minival/mean_iou"] == pytest.approx(best["minival/mean_iou"], abs=1e-6)


def test_a_stop_keeps_the_boxes_that_there_are(shared, tmp_path, monkeypatch) -> None:
    arms, _, prepared = shared
    examples = prepared.encoded(arms[0])["dev"]
    section, part = replace(arms[0].evaluation, batch_size=2), tmp_path / "part.parquet"
    readout = examples.encoder.readout
    whole = asking.ask(prepared.vlm, examples, readout, section, "dev")

    def stop(stage, done, total, unit="") -> None:
        if done == 2:
            raise Stopped("now")

    with pytest.raises(Stopped):
        asking.ask(prepared.vlm, examples, readout, section, "dev", stop, part=part)
    assert predictions.rows(part) == whole[:2]
    assert asking.ask(prepared.vlm, examples, readout, section, "dev", part=part) == whole and not part.exists()


def test_the_text_that_is_trained_is_read_back_as_the_sample_s_boxes(compose, shared) -> None:
    """Through every format, with the tokens of the checkpoint and its own resize, after `vision_tokens=resize` too."""
    prepared = shared[2]
    assert WORDS["prompt.boxes"].legal == WRITTEN
    for overrides in ((), ("vision_tokens=resize", "vision_tokens.budget=4")):
        for name in WRITTEN:
            encoder = prepared.encoded(compose(f"prompt.boxes={name}", *overrides))["train"].encoder
            sample = prepared.splits.train[1]
            example, size = encoder.example(sample), sample.answer.size
            _, h, w = example.grids[0]
            side = encoder.processor.image_processor.patch_size
            assert encoder.resized(size) == (side * w, side * h)
            text, _ = locating.text_of(encoder.tokenizer, example.text.answer_ids.tolist())
            reading = regions.read(text, name, size=size, resized=encoder.resized(size))
            (before,), (after,) = sample.answer.regions, reading.regions or reading.points
            assert reading.status == "ok" and after.label == before.label
            if reading.regions:
                bins = [max(side / 1000, 1, side / pixels) for side, pixels in zip(size * 2, encoder.resized(size) * 2, strict=True)]
                assert all(abs(a - b) <= bin_ for a, b, bin_ in zip(before[1:], after[1:], bins, strict=True))


def test_boxes_survive_the_processor_s_own_resize(shared) -> None:
    """Pictures of any size and proportions, by the grid that the processor makes of them."""
    encoder, draw = shared[2].encoded(shared[0][0])["train"].encoder, random.Random(0)
    side = encoder.processor.image_processor.patch_size
    for _ in range(25):
        size = draw.randint(8, 700), draw.randint(8, 700)
        _, ((_, h, w),) = encoder.pixels([Image.new("RGB", size)])
        resized = encoder.resized(size)
        assert resized == (side * w, side * h)
        (x0, x1), (y0, y1) = (sorted((draw.uniform(0, edge), draw.uniform(0, edge))) for edge in size)
        for name in WRITTEN:
            check_round_trip(name, size, resized, (Region("table", x0, y0, x1, y1),))


def test_scores_are_the_mean_probability_of_a_box_s_own_tokens(shared) -> None:
    tokenizer = shared[2].vlm.processor.tokenizer
    boxes = (Region("table", 0, 0, 50, 50), Region("text", 50, 50, 100, 100))
    text = regions.write(boxes, "qwen2", size=(1000, 1000))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    written, ends = locating.text_of(tokenizer, ids)
    assert written == text and ends[-1] == len(text)
    first, second = regions.read(text, "qwen2", size=(1000, 1000)).spans
    number = sum(end <= first[1] for end in ends)
    log_p = [-0.1] * number + [-0.5] * (len(ids) - number)
    assert locating.probability(log_p, ends, first) == pytest.approx(math.exp(-0.1))
    assert locating.probability(log_p, ends, second) == pytest.approx(math.exp(-0.5))
    wide = "(1,2),(3,4) díä 😀"
    written, ends = locating.text_of(tokenizer, tokenizer(wide, add_special_tokens=False)["input_ids"])
    assert written == wide and ends == sorted(ends) and ends[-1] == len(wide)
    assert locating.text_of(tokenizer, []) == ("", [])


def test_boxes_are_mended_on_request_without_a_step(shared, compose, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("a step was taken"))
    monkeypatch.setattr(locating, "text_of", lambda *_: ("a(900,800),(100,1200)", [21]))
    x = compose("lora.r=2", "evaluation.repair=true")
    running.run_alone(x, "command", time.time())
    table = predictions.read(runs.predictions_file(folder(x), "boxes", "dev"))
    assert all(len(one) == 1 and one[0].valid((w, h)) for one, w, h in zip(table.regions, table.width, table.height, strict=True))
    assert "evaluation.repair=true: in dev swapped corners are sorted" in caplog.text


def test_a_predicted_label_is_read_by_the_aliases_of_the_data(shared, compose) -> None:
    """A model that calls a class otherwise is not counted as wrong for the name; the text stays as written, and the contract says so."""
    x = compose("data.aliases={Nutrition table: table}")
    splits, encoder = data.load(x.data, Path(x.tracking.cache_dir)), shared[2].encoded(shared[0][0])["train"].encoder
    encoder = encoder.of_data(x.data, splits.answers)
    sample = splits.train[1]
    text = regions.write([Region(label, 10, 20, 30, 40) for label in ("Nutrition table", "Tables")], "qwen2", size=sample.answer.size)
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    found = locating.located(encoder, sample, "qwen2", ids, [-0.1] * len(ids), True)
    assert [region.label for region in found.regions] == ["table", "Tables"] and "Nutrition table" in found.text
    assert contract.answers_of({"answers": encoder.readout.describe()}, x.prompt) == splits.answers
    assert "aliases" not in shared[2].encoded(shared[0][0])["train"].encoder.readout.describe(), "a run without any keeps its contract"


def test_labels_never_write_special_tokens_and_are_read_back(shared, compose) -> None:
    encoder = shared[2].encoded(shared[0][0])["train"].encoder
    sample = shared[2].splits.train[1]
    for label in ("<|im_end|>", "a<|box_end|>", "<|image_pad|>"):
        with pytest.raises(BadRecord, match="its answer .* must not hold special tokens"):
            encoder.text(replace(sample, answer=Regions((Region(label, 1, 2, 30, 40),), sample.answer.size)))
    click = shared[2].encoded(compose("prompt.boxes=click"))["train"].encoder
    with pytest.raises(BadRecord, match="its labels 'a\\\\nb' are read back as 'a', written by prompt.boxes=click"):
        click.text(replace(sample, answer=Regions((Region("a\nb", 1, 2, 30, 40),), sample.answer.size)))
    with pytest.raises(BadRecord, match="it shows 2 images, and its boxes are of one"):
        encoder.text(replace(sample, images=sample.images * 2))


def test_another_format_is_told_and_one_that_cannot_be_is_refused(compose, composer, caplog) -> None:
    with caplog.at_level(logging.INFO):
        running.check(compose("prompt.boxes=json"))
    assert "prompt.boxes=json: model.family=qwen2_vl learned to write boxes as qwen2" in caplog.text
    with pytest.raises(ModelError, match="^prompt.boxes=qwen2_5: model.family=blip_vqa does not take it: .*one square.*Choose prompt.boxes=json"):
        running.check(compose("model=blip_vqa", "model.path=.", "prompt.boxes=qwen2_5"))
    with pytest.raises(ConfigError, match="^prompt.boxes=json: data=pairs has no boxes that would be written so; leave it out"):
        running.check(composer("prompt.boxes=json"))
    running.check(composer("prompt.boxes=json", "evaluation.also=[drawn_tables]"))
    with pytest.raises(ModelError, match="^data=boxes: model.family=vilt_vqa does not take it: it chooses among labels"):
        running.check(compose("model=vilt_vqa", "model.path=."))
    with pytest.raises(ConfigError, match=r"evaluation.repair=true: data=easy_vqa is not answered in boxes"):
        running.check(compose("data=easy_vqa", "prompt=question", "evaluation.repair=true"))
    with pytest.raises(ConfigError, match=r"evaluation.swap=true: data=boxes is answered in boxes"):
        running.check(compose("evaluation.swap=true"))


def test_a_finished_run_boxes_pictures_of_one_s_own(shared, tmp_path) -> None:
    arms, records, _ = shared
    Image.new("RGB", (60, 90), "white").save(tmp_path / "mine.png")
    predictor = Predictor(Path(arms[0].tracking.runs_dir), records[0], arms[0])
    predicted = predictor.answer(predictor.questions([tmp_path / "mine.png"], "Where is a table?"), lambda *_: None)
    assert predicted.table.kind == "regions" and (predicted.table.width[0], predicted.table.height[0]) == (60, 90)
