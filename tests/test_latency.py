"""The stages that are timed are the answer that is scored, merging touches nothing, and every number is there and in order."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
import torch
from test_families import PROMPT, sample

from lab import conditioning, data, lora, model, vision_tokens
from lab import run as running
from lab.artifacts import adapter
from lab.config import LoraDial, identity
from lab.evaluation import latency, stages
from lab.evaluation.latency import peak_memory_mb
from lab.host.progress import silent
from lab.model import Vlm
from lab.model.answers import readout
from lab.model.encoding import Encoder
from lab.records import Batch, Tokens
from lab.run import latency_rounds
from lab.run.assembly import attached
from lab.store import runs
from lab.training.examples import Examples

pytestmark = pytest.mark.usefixtures("nominal_costs")

CLOSE = {"rtol": 0.0, "atol": 2e-5}
STAGES = ("", "vision_", "prefill_", "decode_")


def keys(*prefixes: str) -> set[str]:
    return {f"latency/{prefix}{stage}{p}_ms" for prefix in prefixes for stage in STAGES for p in ("p50", "p95")}


def longer(batch: Batch, token: torch.Tensor) -> Batch:
    """The batch with one further token of text."""
    ids = token.unsqueeze(1)
    before = batch.prompt
    prompt = Tokens(
        ids=torch.cat([before.ids, ids], 1),
        mask=torch.cat([before.mask, torch.ones_like(ids)], 1),
        positions=torch.cat([before.positions, before.positions[..., -1:] + 1], -1),
        types=torch.cat([before.types, torch.zeros_like(ids)], 1),
    )
    return dataclasses.replace(batch, prompt=prompt)


def moved(vlm: Vlm, names: str, spread: float = 0.2) -> None:
    """Give adapters or gates values as if they had trained."""
    for name, parameter in lora.trainable(vlm).items():
        if names in name:
            torch.nn.init.normal_(parameter, std=spread, generator=torch.Generator().manual_seed(len(name)))


def check_stages(vlm: Vlm, batch: Batch) -> None:
    vlm.model.eval()
    with torch.inference_mode():
        whole = vlm.logits(batch, 1)[:, -1]
        seen = stages.encode_images(vlm, batch)
        read = stages.prefill(vlm, batch, seen)
        token = whole.argmax(dim=-1)
        further = stages.decode_step(vlm, stages.next_inputs(vlm, batch, seen, token), read.cache)
        again = vlm.logits(longer(batch, token), 1)[:, -1]
    torch.testing.assert_close(read.logits, whole, **CLOSE)
    torch.testing.assert_close(further, again, **CLOSE)
    assert not torch.allclose(further, whole, atol=1e-2)


@pytest.mark.parametrize("family", (*checkpoints.FAMILIES, "vit_gpt2"))
def test_stages_are_the_answer(family, tmp_path) -> None:
    """Tower, then prompt over its cache, then one token: the logits of one call, and of one call with that token."""
    vlm = model.load(checkpoints.save(family, tmp_path))
    encoder = Encoder(vlm, PROMPT)
    check_stages(vlm, encoder.collate([encoder.example(sample(i, ragged=True)) for i in range(3)], with_answers=False))


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=8", "data.num_minival=8", "data.num_dev=12")
    return x, model.load(x.model), data.load(x.data, tmp_path_factory.mktemp("cache")).dev


@pytest.mark.parametrize(
    "overrides",
    [
        ("vision_tokens=merge", "vision_tokens.budget=6"),
        ("vision_tokens=resampler", "vision_tokens.budget=4"),
        ("conditioning=cross_attention",),
        ("conditioning=cross_attention", "conditioning.parallel=true", "conditioning.keep_prefix=false"),
        ("conditioning=cross_attention", "vision_tokens=pool", "vision_tokens.budget=4"),
    ],
    ids=" ".join,
)
def test_stages_are_the_answer_under_every_dial(overrides, composer, world) -> None:
    x = composer(*overrides)
    vlm = world[1].share()
    vision_tokens.install(vlm, x.vision_tokens)
    conditioning.install(vlm, x.conditioning)
    for module in vlm.extras.values():
        for name, parameter in module.named_parameters():
            if name.endswith("gate"):
                parameter.data.fill_(0.7)
    encoder = Encoder(vlm, x.prompt)
    check_stages(vlm, encoder.collate([encoder.example(world[2][i]) for i in range(3)], with_answers=False))


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"where": ["vision", "projector", "llm"], "use_rslora": True}])
def test_merging_computes_the_same_and_touches_nothing(options, world) -> None:
    x, base, dev = world
    dial = LoraDial(name="llm", r=4, **options)
    targets = lora.target_names(base, dial)
    vlm = base.share()
    lora.attach(vlm, dial)
    moved(vlm, "lora_")
    encoder = Encoder(vlm, x.prompt)
    batch = encoder.collate([encoder.example(dev[i]) for i in range(4)], with_answers=False)
    before = {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}
    vlm.model.eval()
    try:
        with torch.inference_mode():
            trained = vlm.logits(batch, 1)
        merged = stages.merged(vlm)
        with torch.inference_mode():
            torch.testing.assert_close(merged.logits(batch, 1), trained, rtol=0.0, atol=1e-3)
            assert torch.equal(vlm.logits(batch, 1), trained)
            with vlm.model.disable_adapter():
                assert not torch.allclose(vlm.logits(batch, 1), trained, atol=1e-2)
        after = vlm.model.state_dict()
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        assert not any("lora_" in name for name, _ in merged.model.named_parameters())
        mine = {tensor.data_ptr() for tensor in vlm.base_model.parameters()}
        assert merged.base_model.get_input_embeddings().weight.data_ptr() in mine  # not copied: merging does not change it
        changed = {name.rpartition(".")[0] for name, tensor in merged.model.named_parameters() if tensor.data_ptr() not in mine}
        assert changed == set(targets)
    finally:
        lora.detach(vlm)
        base.model = vlm.model


def test_a_visit_measures_every_stage_both_ways(world) -> None:
    x, base, dev = world
    vlm = base.share()
    lora.attach(vlm, LoraDial(name="llm", r=2))
    try:
        work = latency.workload(Examples(dev, Encoder(vlm, x.prompt)), 3, 4)
        merged = stages.merged(vlm)
        looks, others = ([latency.visit(each, work, 1, batches=2) for _ in range(2)] for each in (vlm, merged))
    finally:
        lora.detach(vlm)
        base.model = vlm.model
    found = latency.summarise(looks, others, work)
    every = keys("", "batch_", "merged_", "merged_batch_")
    assert every | {f"latency/{name}" for name in ("examples_per_second", "batch_size", "visits", "examples", "batches", "tokens",
                                                   "tokens_per_second", "visual_tokens")} == found.keys()  # fmt: skip
    assert {name: found[f"latency/{name}"] for name in ("visits", "examples", "batches", "batch_size")} == {
        "visits": 2, "examples": 3, "batches": 2, "batch_size": 4
    }  # fmt: skip
    assert found["latency/visual_tokens"] == 32  # two images of 16
    assert 32 < found["latency/tokens"] <= work.full.prompt.ids.shape[1]
    for prefix in ("", "batch_", "merged_", "merged_batch_"):
        for stage in STAGES:
            assert 0 < found[f"latency/{prefix}{stage}p50_ms"] <= found[f"latency/{prefix}{stage}p95_ms"]
    for one in (*looks, *others):
        for seconds in (*one.pace.singles, *one.pace.batches):
            assert seconds.vision + seconds.prefill <= seconds.whole
    fastest = min(seconds.whole for one in looks for seconds in one.pace.batches)
    assert found["latency/examples_per_second"] == pytest.approx(4 / fastest)


def test_nothing_merges_without_adapters_or_into_quantised_weights(world) -> None:
    x, base, dev = world
    given = dataclasses.replace(x.evaluation, latency_examples=1, latency_warmup=0, batch_size=1)
    found = latency_rounds.measure_latency(given, base, Examples(dev, Encoder(base, x.prompt)))
    assert keys("", "batch_") <= found.keys() and not any("merged" in key for key in found)
    vlm = dataclasses.replace(base, base={**base.base, "quantisation": "nf4"})
    lora.attach(vlm, LoraDial(name="llm", r=2))
    assert stages.merged(vlm) is None
    lora.detach(vlm)
    base.model = vlm.model


def test_arms_in_turn_encode_once(small, monkeypatch) -> None:
    """Every round visits an arm of every kind, another each time, and one merged; what is asked is encoded once.

    Arms of one kind share what was measured, an arm without adapters has nothing merged; records stay whose they are.
    """
    given = ("evaluation.latency_examples=6", "evaluation.latency_warmup=0", "evaluation.batch_size=4")
    every = [small(f"lora.r={r}", f"optim.lr={lr}", *given) for r, lr in ((2, 1e-3), (4, 1e-3), (2, 2e-3))]
    bare = small("lora=none", "trainer.max_steps=0", *given)
    prepared = running.prepare(every[0])
    records = []
    for x in every:
        folder = runs.folder(Path(x.tracking.runs_dir), identity(x))
        with attached(x, prepared.vlm) as vlm:
            moved(vlm, "lora_B", x.optim.lr)
            adapter.save(vlm, folder / "adapter")
        records.append(running.new_run(x, "command"))
        records[-1].metrics |= {"dev/accuracy": 0.5 + 0.01 * x.lora.r, "latency/of a glance": 1.0}
    every, records = [*every, bare], [*records, running.new_run(bare, "command")]
    saved = {path: path.read_bytes() for path in Path(bare.tracking.runs_dir).rglob("adapter/*")}
    encoded, looked = [], []
    real_example, real_visit = Encoder.example, latency.visit

    def visit(vlm, *rest, **more):
        up = [parameter for name, parameter in vlm.model.named_parameters() if "lora_B" in name]
        looked.append((up[0].shape[1], round(up[0].std().item(), 3)) if up else "no adapter")
        return real_visit(vlm, *rest, **more)

    monkeypatch.setattr(Encoder, "example", lambda self, one: (encoded.append(one.sample_id), real_example(self, one))[1])
    monkeypatch.setattr(latency, "visit", visit)
    running.interleaved_latency(list(zip(every, records, strict=True)), prepared)
    first, third = ([(2, rate), "no adapter", (4, 0.001), "no adapter"] for rate in (0.001, 0.002))
    assert looked == first + third + first, "as trained, merged, as trained, without adapters"
    assert len(encoded) == 2 * len(set(encoded)) == 8, "an arm that trains and one that does not do not share their splits"
    shared = [dict(runs.load(Path(x.tracking.runs_dir), identity(x)).metrics) for x in (every[0], every[2])]
    assert shared[0] == shared[1]
    *every, bare = every
    run = runs.load(Path(bare.tracking.runs_dir), identity(bare))
    assert keys("", "batch_") <= run.metrics.keys() and not keys("merged_") & run.metrics.keys()
    for x in every:
        run = runs.load(Path(x.tracking.runs_dir), identity(x))
        assert run.metrics["latency/visits"] == 3 and run.metrics["latency/examples"] == 2 and run.metrics["latency/batches"] == 1
        assert keys("", "batch_", "merged_", "merged_batch_") <= run.metrics.keys()
        assert run.metrics["dev/accuracy"] == 0.5 + 0.01 * x.lora.r and "latency/of a glance" not in run.metrics
        assert run.facts["latency"]["of"] == [identity(other) for other in every if other.lora.r == x.lora.r]
    assert saved and all(path.read_bytes() == data for path, data in saved.items())


def test_a_run_alone_looks_long_and_an_arm_in_turn_looks_short(small) -> None:
    x = small("lora=none", "trainer.max_steps=0", "evaluation.latency_examples=6", "evaluation.batch_size=4", "data.num_dev=8")
    prepared = running.prepare(x)
    words = readout(prepared.vlm.processor.tokenizer, x.prompt)
    folder = Path(x.tracking.runs_dir) / "look"
    given = (x, prepared.vlm, prepared.encoded(x), words, folder, silent, {})
    long, short = (running.evaluate(*given, interleaved=interleaved) for interleaved in (False, True))
    assert (long["latency/examples"], long["latency/batches"]) == (6, 3)
    assert (short["quick_latency/examples"], short["quick_latency/batches"]) == (2, 0)
    glance = {name.replace("latency/", "quick_latency/") for name in keys("")}
    assert glance <= short.keys() and not any(name.startswith(("latency/", "quick_latency/batch_")) for name in short)
    assert {key: value for key, value in long.items() if key.startswith("dev/")} == {
        key: value for key, value in short.items() if key.startswith("dev/")
    }


def test_peak_memory_is_this_process_s_own() -> None:
    """Not what the process that started it held."""
    ballast = bytearray(b"1") * (1500 << 20)
    code = (
        "from __future__ import annotations\nimport re, resource\nfrom pathlib import Path\nfrom types import SimpleNamespace\n\n"
        f"{inspect.getsource(peak_memory_mb)}\nprint(peak_memory_mb(SimpleNamespace(type='cpu')))"
    )
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 1 < child < len(ballast) / 2**20 < peak_memory_mb(torch.device("cpu"))
