"""The comparison with TRL: its own inputs, equal losses before any ratio, one process at work at a time."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from lab import data, model
from lab import run as running
from lab.bench import steps
from lab.bench.results import BenchError, Round
from lab.config import Experiment
from lab.curation.sources.drawn import Design
from lab.errors import ConfigError
from lab.model.encoding import Encoder
from tools.bench import bundle, head_to_head, inputs, interleaved_runs, plain_baseline, products, rows, sweep, trl_baseline
from tools.bench.__main__ import own_inputs
from tools.bench.interleaved_runs import Measured
from tools.tests.sleeper import Sleeper

needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install -e '.[bench]'")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A small set of the benchmark's own pictures."""
    folder = tmp_path_factory.mktemp("pictures") / "set"
    return inputs.write_once(folder, lambda work: inputs.write_pictures(work, {"train": 20, "dev": 1}))


@pytest.fixture(scope="module")
def tiny(composer, photographs, tmp_path_factory) -> tuple[Experiment, running.Prepared]:
    """The shipped base on the benchmark's pictures at the lowest budget, features cached."""
    x = composer(
        "data=nlvr2", f"data.root={photographs}", f"tracking.cache_dir={tmp_path_factory.mktemp('cache')}",
        "vision_tokens=resize", "vision_tokens.budget=4", "optim.warmup_fraction=0", "trainer.batch_size=4",
        "data.num_train=48", "data.num_minival=16", "data.num_dev=16", "evaluation.batch_size=4",
    )  # fmt: skip
    return x, running.prepare(x)


def test_pictures_are_photographs_in_size_and_balanced(photographs, composer, tmp_path) -> None:
    """640 x 480 JPEG files behind an existing option, every sentence true of half its pairs; made once."""
    from lab.data.images import decode

    dial = composer("data=nlvr2", f"data.root={photographs}").data
    splits = data.load(dial, tmp_path)
    assert (len(splits.train), len(splits.minival), len(splits.dev)) == (19 * 16, 16, 16)
    groups: dict[str, list[bool]] = {}
    for sample in (splits.train[i] for i in range(len(splits.train))):
        groups.setdefault(sample.question_group, []).append(sample.answer.right == 0)
    assert {(len(labels), sum(labels)) for labels in groups.values()} == {(4, 2)}
    picture = splits.dev[0].images[0]
    assert Path(picture.source).read_bytes()[:3] == b"\xff\xd8\xff"
    assert decode(picture).size == (640, 480)
    inputs.write_once(photographs, lambda _: pytest.fail("written twice"))


def test_the_benchs_checkpoint_is_an_ordinary_one(composer, tmp_path, monkeypatch) -> None:
    """About 60 M parameters, nearly all in matrices; loaded by the path of every other checkpoint; 54 tokens a picture."""
    from PIL import Image
    from transformers import Qwen2VLForConditionalGeneration

    whole = inputs.config()
    with torch.device("meta"):
        sizes = {name: one.numel() for name, one in Qwen2VLForConditionalGeneration(whole).named_parameters() if one.ndim > 1}
    assert 55e6 < sum(sizes.values()) < 65e6
    assert sum(size for name, size in sizes.items() if "embed_tokens" not in name) > 0.9 * sum(sizes.values())
    shallow = inputs.config()
    shallow.text_config.num_hidden_layers, shallow.text_config.layer_types, shallow.vision_config.depth = 1, ["full_attention"], 1
    monkeypatch.setattr(inputs, "config", lambda: shallow)
    x = composer(f"model.path={inputs.write_once(tmp_path / 'bench', inputs.write_checkpoint)}")
    vlm = model.load(x.model)
    assert len(vlm.processor.tokenizer) <= vlm.base_model.config.text_config.vocab_size
    encoder = Encoder(vlm, x.prompt)
    pixels, (grid,) = encoder.pixels([Image.new("RGB", inputs.SIZE)])
    assert encoder.tokens(grid) == vlm.encode_images(encoder.architecture.stack(pixels, [grid]))[0].shape[0] == 54


@needs_trl
@pytest.mark.parametrize("checkpointing", [True, False])
def test_trl_learns_the_same(tiny, tmp_path, checkpointing) -> None:
    """The losses of the first steps agree in float32: same checkpoint, data, order, adapter, label rows, optimizer, schedule."""
    x, prepared = tiny
    ours = steps.through_lightning(x, prepared, 1)
    files = bundle.write(steps.lasting(x, 1), prepared, tmp_path / "bundle")
    theirs = trl_baseline.one_round(files, trl_baseline.Settings("TRL", checkpointing, 0, 1), 1)
    assert len(theirs.losses) == len(ours.losses) == 3 and len(theirs.seconds) == 1
    assert head_to_head.require_same_losses(ours.losses, theirs.losses, "TRL") <= head_to_head.TOLERANCE


def test_no_ratio_without_equal_losses() -> None:
    """A peer that learns something else gets no ratio, and the message shows both losses; a loss that is no number neither."""

    def arm(seconds: list[float], *losses: float) -> Measured:
        return Measured([Round(seconds, list(losses))], 0.0, 0.0)

    ours = arm([0.1, 0.2], 2.0, 1.0, 0.5)
    with pytest.raises(BenchError, match=r"(?s)no ratio is printed.*step 2: ours 1.0000000, TRL 1.1000000"):
        head_to_head.ratios(ours, arm([0.3, 0.4], 2.0, 1.1, 0.5), "TRL")
    with pytest.raises(BenchError):
        head_to_head.ratios(ours, arm([0.3, 0.4], 2.0, float("nan"), 0.5), "TRL")
    assert [one.value for one in head_to_head.ratios(ours, arm([0.3, 0.6], 2.0, 1.0, 0.5), "TRL")] == pytest.approx([3.0, 3.0])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["vision_tokens=pool", "vision_tokens.budget=4"], "vision_tokens=pool"),
        (["conditioning=cross_attention"], "conditioning=cross_attention"),
        (["lora=none", "trainer.max_steps=0"], "lora=none"),
        (["optim.warmup_fraction=0.05"], "optim.warmup_fraction=0.05"),
    ],
)
def test_what_trl_cannot_do_is_told(composer, overrides, words) -> None:
    warm_up = [] if "warmup" in overrides[0] else ["optim.warmup_fraction=0"]
    with pytest.raises(ConfigError, match=words):
        bundle.require_plain(composer(*warm_up, *overrides))


def test_trl_missing_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"TRL is not installed here\. Install it with: pip install -e '\.\[bench\]'"):
        trl_baseline.require()


def test_arms_are_interleaved_in_processes_of_their_own() -> None:
    """Every arm takes its rounds and says its peak; one that fails ends the comparison with its traceback."""
    measured = interleaved_runs.interleave({"a": Sleeper(), "b": Sleeper()}, 2, 3)
    assert [len(each.rounds) for each in measured.values()] == [2, 2] and len(measured["a"].seconds) == 6
    assert min(each.peak_mb for each in measured.values()) > 1
    with pytest.raises(BenchError, match="boom"):
        interleaved_runs.interleave({"a": Sleeper(fails=True)}, 1, 1)


def test_a_sweeps_makespan_says_how_much_was_measured() -> None:
    figures = {one.name: one for one in sweep.makespans({"cold": 60.0}, {"TRL": [20.0, 40.0]}, 2)}
    assert figures["TRL, 12 arms"].value == 12 * 30.0 and figures["TRL / ours, cold cache"].value == 6.0
    assert figures["TRL / ours, cold cache"].note == "2 measured, times 12"
    assert sweep.seconds_of(["-c", "pass"]) > 0
    with pytest.raises(BenchError, match="exit code 3:\nhelp"):
        sweep.seconds_of(["-c", "import sys; print('help', file=sys.stderr); sys.exit(3)"])


def test_own_inputs_give_way() -> None:
    """The benchmark's own checkpoint and pictures unless others are chosen, no warm-up unless one is."""
    chosen = ["model=tiny", "data=pairs", "optim.warmup_fraction=0.1"]
    assert own_inputs(chosen) == ["optim.warmup_fraction=0", *chosen]


def test_a_plain_loop_learns_the_same(tiny, tmp_path) -> None:
    """PEFT and Transformers alone: labels at the completions, the losses of ours."""
    x, prepared = tiny
    ours = steps.through_lightning(x, prepared, 1)
    files = bundle.write(steps.lasting(x, 1), prepared, tmp_path / "bundle")
    theirs = plain_baseline.one_round(files, 1)
    assert head_to_head.require_same_losses(ours.losses, theirs.losses, "plain") <= head_to_head.TOLERANCE and len(theirs.seconds) == 1
    assert 0 < plain_baseline.whole_arm(files, 1, tmp_path / "adapter")["eval_loss"] < 20
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_rows_are_written_as_they_are_found_and_count_by_their_losses(monkeypatch, capsys) -> None:
    """Each by its letter; one whose losses part is shown and does not count; an unknown one is named."""
    made = {"c": {"ratios": {"default": [4.0, 6.0, 5.0]}, "loss_gap": 0.01}, "d": {"ratios": {"plain": [5.0]}, "memory_ratio": 0.3, "loss_gap": 0.2}}
    monkeypatch.setattr(rows, "ROWS", {name: lambda *_, name=name: made[name] for name in made})
    published = []
    found = rows.run("c,d", [], 1, 1, lambda *_: None, lambda known: published.append(list(known)))
    assert published == [["c"], ["c", "d"]] and {name: row["counts"] for name, row in found.items()} == {"c": True, "d": False}
    said = capsys.readouterr().out
    assert "5.00 times as long (4.00 to 6.00)" in said and "this row does not count" in said and "0.30 of plain" in said
    with pytest.raises(ConfigError, match="there is no row e"):
        rows.chosen("c,e")


def test_losses_are_held_to_each_other_by_their_size() -> None:
    assert head_to_head.gap([2.0, 1.0], [2.0, 1.1]) == pytest.approx(0.1)
    assert head_to_head.gap([1.0], [float("nan")]) == float("inf")


def test_products_are_asked_so_many_questions_a_picture(composer, tmp_path) -> None:
    """Four and five in turn, which an order by image brings together; the wide model has the 2B's widths."""
    products.write(tmp_path, products.SMALL, (4, 5), {"train": 4, "minival": 2, "dev": 2})
    x = composer("data=questions", f"data.path={tmp_path}/questions.jsonl", "data.kind=text")
    splits = data.load(x.data, tmp_path / "cache")
    assert [len(split) for split in (splits.train, splits.minival, splits.dev)] == [18, 9, 9] and splits.kind == "text"
    assert len(products.questions(Design("red", "circle", 2, "solid", 0))) == 8
    with torch.device("meta"):
        sizes = sum(one.numel() for one in Qwen2VLForConditionalGeneration(products.config()).parameters())
    assert sizes == 401_918_976, "of the vocabulary 233 M, of two blocks 94 M and 39 M, of the merger 34 M"
