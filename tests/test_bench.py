"""What a measurement must hold before its numbers mean anything: operations counted right, parts that add up, equal losses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sleeper import Sleeper

from lab import data, model
from lab import run as running
from lab.bench import answering, breakdown, bundle, ceiling, checkpoint, comparing, figures, peer, pictures, processes, rounds, steps, sweep
from lab.bench.__main__ import PICTURES, asked, parser
from lab.bench.figures import BenchError, Figure
from lab.bench.rounds import Round, Taken
from lab.config import Experiment
from lab.errors import ConfigError
from lab.model.encoding import Encoder
from lab.run.assembly import attached
from lab.training.fast.autograd_ops import bands

ROOT = Path(__file__).parents[1]
needs_trl = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install -e '.[bench]'")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A small set of the bench's own pictures."""
    return pictures.make(tmp_path_factory.mktemp("pictures") / PICTURES, {"train": 20, "dev": 1})


@pytest.fixture(scope="module")
def tiny(composer, photographs, tmp_path_factory) -> tuple[Experiment, running.Prepared]:
    """The shipped base on the bench's pictures at the lowest budget, features cached."""
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
    before = sorted(path.stat().st_mtime_ns for path in photographs.rglob("*"))
    pictures.make(photographs)
    assert sorted(path.stat().st_mtime_ns for path in photographs.rglob("*")) == before


def test_the_benchs_checkpoint_is_an_ordinary_one(composer, tmp_path, monkeypatch) -> None:
    """About 60 M parameters, nearly all in matrices; loaded by the path of every other checkpoint; 54 tokens a picture."""
    from PIL import Image
    from transformers import Qwen2VLForConditionalGeneration

    whole = checkpoint.config()
    with torch.device("meta"):
        sizes = {name: one.numel() for name, one in Qwen2VLForConditionalGeneration(whole).named_parameters() if one.ndim > 1}
    assert 55e6 < sum(sizes.values()) < 65e6
    assert sum(size for name, size in sizes.items() if "embed_tokens" not in name) > 0.9 * sum(sizes.values())
    shallow = checkpoint.config()
    shallow.text_config.num_hidden_layers, shallow.text_config.layer_types, shallow.vision_config.depth = 1, ["full_attention"], 1
    monkeypatch.setattr(checkpoint, "config", lambda: shallow)
    x = composer("model=bench", f"model.path={checkpoint.make(tmp_path / 'bench')}")
    vlm = model.load(x.model)
    assert len(vlm.processor.tokenizer) <= vlm.bare.config.text_config.vocab_size
    encoder = Encoder(vlm, x.prompt)
    pixels, (grid,) = encoder.pixels([Image.new("RGB", pictures.SIZE)])
    assert encoder.tokens(grid) == vlm.encode_images(pixels[0], torch.tensor([grid]))[0].shape[0] == 54


def test_operations_are_those_counted_by_hand(tiny) -> None:
    """Forward and backward over frozen weights: two products a linear layer, and three for each of an adapter's matrices."""
    x, prepared = tiny
    counted = steps.flops_of_step(x, prepared)
    text = prepared.vlm.bare.config.text_config
    hidden, wide, blocks = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    kv = text.num_key_value_heads * hidden // text.num_attention_heads
    attention = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    feed_forward = [(hidden, wide), (hidden, wide), (wide, hidden)]
    with attached(x, prepared.vlm) as vlm:
        _, batches = steps.begin(steps.lasting(x, 1), vlm, prepared.encoded(x)["train"])
        batch = next(batches)
    rows, length = batch.input_ids.shape[0], batch.input_ids.shape[1] - 1  # what a row ends with predicts nothing
    tokens = batch.shared + rows * (length - batch.shared)  # what begins all rows is read once
    asking = rows * (batch.answer_rows - 1)  # all that the last feed-forward sees

    def linears(shapes: list[tuple[int, int]], number: int) -> float:
        """Forward and backward by W + s B A, which is summed for each; an adapter's own gradients pass its rank twice each way."""
        return sum((2 * 2 * number * m * n) + 2 * 2 * number * x.lora.r * (m + n) + 2 * 2 * m * n * x.lora.r for m, n in shapes)

    narrow, wide_rows = [(hidden, kv), (hidden, kv)], attention[:1] + attention[3:]
    expected = (blocks - 1) * linears(attention + feed_forward, tokens) + linears(narrow, tokens)
    expected += linears(wide_rows + feed_forward, asking)  # of the last block only the answer rows ask
    first, *own = [len(future) * stop for _, stop, future in bands(length, batch.shared, 1, torch.device("cpu"), torch.float32)]
    expected += (blocks - 1) * (2 + 4) * 2 * (first + rows * sum(own)) * hidden
    expected += (2 + 5) * 2 * asking * length * hidden  # its backward computes the weights again
    expected += 2 * 2 * asking * hidden * text.vocab_size
    expected -= tokens * 2 * hidden * (hidden + 2 * kv)  # embeddings need no gradient
    assert counted == pytest.approx(expected, rel=0.01)


def test_the_ceiling_is_a_rate_of_this_machine() -> None:
    """Above any product a step contains, below what a core could ever do."""
    top = ceiling.matrix_product_ceiling(torch.float32, torch.device("cpu"), seconds=0.4)
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    start = time.perf_counter()
    for _ in range(20):
        torch.mm(a, b)
    assert 1e9 < 20 * 2 * 256**3 / (time.perf_counter() - start) < 2 * top
    assert top < 1e12 * torch.get_num_threads()
    assert ceiling.matrix_flops(lambda: torch.mm(a, b).addmm_(a, b)) == 2 * 2 * 256**3


@pytest.mark.parametrize("overrides", [{}, {"accumulate_grad_batches": 2, "batch_size": 2}])
def test_the_bare_loop_does_what_the_real_one_does(tiny, overrides) -> None:
    """Equal losses to the last bit, with dropout and accumulation too: their difference in time is Lightning's alone."""
    x, prepared = tiny
    lora = dataclasses.replace(x.lora, lora_dropout=0.1 if overrides else 0.0)
    x = dataclasses.replace(x, trainer=dataclasses.replace(x.trainer, **overrides), lora=lora)
    real, bare = steps.through_lightning(x, prepared, 2), steps.bare(x, prepared, 2)
    assert real.losses == bare.losses and len(real.losses) == rounds.WARM_UP + 2
    assert len(real.seconds) == len(bare.seconds) == 2 and min(real.seconds) > 0
    found = breakdown.step_figures(x, [real], [bare], flops=1e9, top=1e11)
    by_name = {figure.name: figure.value for figure in found}
    parts = [by_name[f"  {part}"] for part in (*steps.PARTS, breakdown.REST)]
    assert sum(parts) == pytest.approx(by_name["step, median"], rel=1e-9)
    assert all(part > 0 for part in parts[:-1])


def test_a_loop_that_does_something_else_is_found_out(tiny, monkeypatch) -> None:
    x, prepared = tiny
    other = dataclasses.replace(x, seed=7)
    monkeypatch.setattr(steps, "bare", lambda x, prepared, count: steps.through_lightning(other, prepared, count))
    with pytest.raises(BenchError, match="the bare loop does not do what the real one does"):
        breakdown.take_turns(x, prepared, 1, 1, lambda *_: None)


def test_scoring_and_generating_are_counted(tiny) -> None:
    """The shipped base answers in words: both ways agree wherever it does, and every example is counted."""
    x, prepared = tiny
    found = {figure.name: figure for figure in answering.measure(x, prepared.vlm, prepared.encoded(x)["dev"], batches=2)}
    assert found["answers that differ"].unit == "of 8" and found["answers that differ"].value == 0
    ratio = found["scoring, cached features"].value / found["generate(max_new_tokens=3)"].value
    assert found["scoring / generating"].value == pytest.approx(ratio)


@needs_trl
@pytest.mark.parametrize("checkpointing", [True, False])
def test_trl_learns_the_same(tiny, tmp_path, checkpointing) -> None:
    """The losses of the first steps agree in float32: same checkpoint, data, order, adapter, label rows, optimizer, schedule."""
    x, prepared = tiny
    ours = steps.through_lightning(x, prepared, 1)
    files = bundle.write(steps.lasting(x, 1), prepared, tmp_path / "bundle")
    theirs = peer.one_round(files, peer.Settings("TRL", checkpointing, 0, 1), 1)
    assert len(theirs.losses) == len(ours.losses) == 3 and len(theirs.seconds) == 1
    assert comparing.require_same_losses(ours.losses, theirs.losses, "TRL") <= comparing.TOLERANCE


def test_no_ratio_without_equal_losses() -> None:
    """A peer that learns something else gets no ratio, and the message shows both losses; a loss that is no number neither."""
    ours = Taken([Round([0.1, 0.2], [2.0, 1.0, 0.5])])
    with pytest.raises(BenchError, match=r"(?s)no ratio is printed.*step 2: ours 1.0000000, TRL 1.1000000") as told:
        comparing.against(ours, Taken([Round([0.3, 0.4], [2.0, 1.1, 0.5])]), "TRL", 8)
    assert "times" not in str(told.value)
    with pytest.raises(BenchError):
        comparing.against(ours, Taken([Round([0.3, 0.4], [2.0, float("nan"), 0.5])]), "TRL", 8)
    found = {one.name: one.value for one in comparing.against(ours, Taken([Round([0.3, 0.6], [2.0, 1.0, 0.5])]), "TRL", 8)}
    assert found["TRL / ours, medians"] == pytest.approx(3.0) and found["TRL / ours, smallest"] == pytest.approx(3.0)


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
        peer.require()


def test_arms_take_turns_in_processes_of_their_own() -> None:
    """Every arm takes its rounds and says its peak; one that fails ends the comparison with its traceback."""
    taken = rounds.take_turns({"a": Sleeper(), "b": Sleeper()}, 2, 3)
    assert [len(each.rounds) for each in taken.values()] == [2, 2] and len(taken["a"].seconds) == 6
    assert min(each.peak_mb for each in taken.values()) > 1
    with pytest.raises(BenchError, match="boom"):
        rounds.take_turns({"a": Sleeper(fails=True)}, 1, 1)


def test_commands_are_watched_with_their_children(tmp_path) -> None:
    """Memory of a whole tree is seen; a command that fails is an error with the end of its log."""
    grow = "block = bytearray(200 * 2**20); block[::4096] = b'x' * len(block[::4096])"
    code = f"import subprocess, sys, time; {grow}; subprocess.run([sys.executable, '-c', \"{grow}; import time; time.sleep(2)\"])"
    ran = processes.run([sys.executable, "-c", code], tmp_path, tmp_path / "log")
    assert 390 < ran.peak_mb < 600 and ran.seconds > 2
    code = "import sys; print('help', file=sys.stderr); sys.exit(3)"
    with pytest.raises(BenchError, match="exit code 3:\nhelp"):
        processes.run([sys.executable, "-c", code], tmp_path, tmp_path / "log")


def test_a_sweeps_makespan_says_how_much_was_measured() -> None:
    ran = processes.Ran
    ours = {"cold": {"train": ran(50.0, 900.0, ""), "report": ran(10.0, 300.0, "")}}
    found = {one.name: one for one in sweep.figures(ours, {"TRL": [ran(20.0, 500.0, ""), ran(40.0, 700.0, "")]}, 2)}
    assert found["ours, cold cache"].value == 60.0 and found["TRL, 12 arms"].value == 12 * 30.0
    assert found["TRL / ours, cold cache"].value == 6.0 and found["TRL / ours, cold cache"].note == "2 measured, times 12"
    assert found["  peak memory, cold cache"].value == 900.0 and found["  peak memory, TRL"].value == 700.0


def test_a_file_is_not_overwritten_unasked(tmp_path) -> None:
    path = tmp_path / "bench.json"
    facts = {"machine": figures.machine(1)}
    figures.save(path, [Figure("step", 1.5, "ms")], facts)
    stored = json.loads(path.read_text())
    assert stored["figures"] == [{"name": "step", "value": 1.5, "unit": "ms", "note": ""}]
    assert stored["machine"]["cores"] >= 1 and stored["machine"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    figures.require_writable(path, force=True)
    with pytest.raises(ConfigError, match="--force"):
        figures.require_writable(path, force=False)
    assert "step           1.5 ms" in figures.table("title", [Figure("step", 1.5, "ms")], facts)


def test_the_doors_defaults_give_way(tmp_path) -> None:
    """The bench's own pictures unless data are chosen, no warm-up unless one is."""
    assert asked(["tracking.cache_dir=/c"])[:3] == ["data=nlvr2", f"data.root=/c/{PICTURES}", "optim.warmup_fraction=0"]
    assert asked(["data=pairs", "optim.warmup_fraction=0.1"]) == ["data=pairs", "optim.warmup_fraction=0.1"]
    assert asked(["data.root=/mine"])[:2] == ["data=nlvr2", "optim.warmup_fraction=0"]
    with pytest.raises(SystemExit):
        parser().parse_intermixed_args(["--sweep", "--growth"])


def test_the_door_is_light() -> None:
    heavy = ("torch", "transformers", "lightning", "peft", "mlflow", "datasets", "trl")
    code = f"import lab.bench.__main__, sys; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
