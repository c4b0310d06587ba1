"""QLoRA: adapters learn beside a base in NF4, a plan counts what is really prepared, and merging is measured into both bases."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import published
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lab import lora, model
from lab import run as running
from lab.config import Experiment, Quantisation
from lab.costs import planning
from lab.export import export_run
from lab.run.assembly import attached
from lab.store import runs
from lab.store.runs import Run

pytest.importorskip("bitsandbytes", reason="it is an extra: pip install '.[quantised]'")
pytestmark = pytest.mark.usefixtures("nominal_costs")
NF4 = ("model.quantisation=nf4", "model.double_quantisation=true")


def pictures(folder: Path, number: int = 16) -> Path:
    """Questions in words about as many pictures: half to learn from, the rest for dev but one."""
    splits, rows = ["train"] * (number // 2) + ["minival"] + ["dev"] * (number - number // 2 - 1), ["image,question,answer,split"]
    for i, split in enumerate(splits):
        Image.new("RGB", (56, 56 + i), ("red", "green", "blue")[i % 3]).save(folder / f"{i}.png")
        rows.append(f"{i}.png,what colour is {i}?,{('red', 'green', 'blue')[i % 3]},{split}")
    (folder / "words.csv").write_text("\n".join(rows))
    return folder / "words.csv"


@pytest.fixture(scope="module")
def trained(composer: Callable[..., Experiment], tiny_folder: Path, tmp_path_factory) -> tuple[Experiment, Run]:
    """Two steps over a base in NF4, with AdamW in 8 bits."""
    home = tmp_path_factory.mktemp("qlora")
    x = composer(
        f"model.path={tiny_folder}", *NF4, "data=questions", f"data.path={pictures(home)}", "optim.optimizer=AdamW8bit", "optim.lr=0.02",
        "optim.warmup_fraction=0", "trainer.max_steps=2", "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false",
        "evaluation.max_new_tokens=4", f"tracking.runs_dir={home}/runs", f"tracking.cache_dir={home}/cache", "tracking.enabled=false",
    )  # fmt: skip
    return x, running.run_alone(x, "command", time.time())


def test_every_adapter_has_moved_and_lies_in_the_file(trained: tuple[Experiment, Run]) -> None:
    """B by the first step, A by the second, as B begins at zero."""
    x, run = trained
    saved = load_file(Path(x.tracking.runs_dir) / run.identity / "adapter" / "adapter_model.safetensors")
    with attached(x, model.load(x.model)) as vlm:
        fresh = {name.replace(".default.", "."): value.detach() for name, value in lora.trainable(vlm).items()}
    assert saved.keys() == fresh.keys() and len(saved) == 2 * 2 * 7, "two blocks of seven linear layers"
    assert not [name for name, value in saved.items() if torch.equal(value, fresh[name])]


def test_the_base_computes_in_its_dtype_with_scales_quantised_twice(trained: tuple[Experiment, Run]) -> None:
    x, _ = trained
    vlm = model.load(replace(x.model, dtype=type(x.model.dtype).bfloat16))
    layers = [module for module in vlm.base_model.modules() if type(module).__name__ == "Linear4bit"]
    assert len(layers) == 14 and {layer.compute_dtype for layer in layers} == {torch.bfloat16}
    assert all(layer.weight.quant_state.nested and layer.weight.quant_state.quant_type == "nf4" for layer in layers)
    others = {parameter.dtype for name, parameter in vlm.base_model.named_parameters() if parameter.dtype != torch.uint8}
    assert others == {torch.bfloat16}, "nothing is brought to float32 unasked"


@pytest.mark.parametrize("keys", [["model.dtype=float32"], ["model.dtype=bfloat16"], ["model.dtype=bfloat16", "model.fp32_layernorms=true"]])
def test_a_plan_counts_what_is_prepared(trained: tuple[Experiment, Run], composer, keys: list[str]) -> None:
    """Weights and scales, normalisation in its own dtype."""
    x = composer(f"model.path={trained[0].model.path}", *NF4, *keys)
    vlm, held = model.load(x.model), 0
    for parameter in dict.fromkeys(vlm.base_model.parameters()):
        held += parameter.nbytes
        if (state := getattr(parameter, "quant_state", None)) is not None:
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    assert planning.plan(x, 16, images=1, text_tokens=20).weight_bytes == pytest.approx(held, rel=1e-3)


def test_merging_is_measured_into_both_bases_and_the_card_says_which(trained: tuple[Experiment, Run], tmp_path: Path, export_asked_here) -> None:
    x, run = trained
    told = export_run(Path(x.tracking.runs_dir), run.identity, tmp_path / "merged", merge=True)
    gaps = dict(re.findall(r"merged into the (\S+) base: \d+ of 7 answers equal, largest gap of a log-probability (\S+)", told))
    assert set(gaps) == {"dequantised", "full-precision"} and len(set(gaps.values())) == 2
    chosen = re.search(r"chosen: merged into the (\S+) base", told)
    assert chosen is not None and f"chosen: merged into the {chosen[1]} base" in (tmp_path / "merged" / "README.md").read_text()
    assert re.search(r"[67] of 7 answers equal$|[67] of 7 answers equal\n", told.partition("reloaded")[2])


def test_an_adapter_over_nf4_is_loaded_over_nf4(trained: tuple[Experiment, Run], tmp_path: Path, export_asked_here) -> None:
    x, run = trained
    told = export_run(Path(x.tracking.runs_dir), run.identity, tmp_path / "out")
    assert "7 of 7 answers equal" in told
    card, script = (tmp_path / "out" / "README.md").read_text(), (tmp_path / "out.serve.sh").read_text()
    assert 'bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"' in card
    assert "--quantization bitsandbytes" in script and "--enable-tower-connector-lora" not in script.split("vllm serve")[1]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of Qwen2-VL-2B, in its widths."""
    folder = tmp_path_factory.mktemp("wide") / "Qwen2-VL-2B-Instruct"
    published.save_full_width(folder)
    return folder


@pytest.mark.bar
@pytest.mark.parametrize("quantisation", [Quantisation.nf4, Quantisation.none], ids=lambda each: each.value)
def test_a_sweep_over_real_widths_trains_saves_merges_and_passes_the_gate(wide: Path, composer, tmp_path: Path, quantisation) -> None:
    """Two ranks over one base in bfloat16, three steps of eight pictures, sixteen new tokens."""
    keys = (
        "model=qwen2_vl_2b", f"model.path={wide}", f"model.quantisation={quantisation.value}", "data=questions",
        f"data.path={pictures(tmp_path)}", "trainer.max_steps=3", "trainer.batch_size=8", "evaluation.max_new_tokens=16",
        "evaluation.probe_examples=2", "evaluation.batch_size=4", "evaluation.latency_examples=0", "optim.lr=1e-3", "tracking.enabled=false",
        f"tracking.runs_dir={tmp_path}/runs", f"tracking.cache_dir={tmp_path}/cache",
    )  # fmt: skip
    arms = [composer(*keys, f"lora.r={r}") for r in (4, 8)]
    prepared = running.prepare(arms[0])
    records = [running.run_arm(x, prepared, running.new_run(x, "command"), time.time()) for x in arms]
    for run in records:
        assert run.status == runs.FINISHED and run.metrics["train/steps"] == 3
        assert run.metrics["verify/passed"] == 1.0, run.facts["verify"]
    del prepared
    told = export_run(tmp_path / "runs", records[0].identity, tmp_path / "merged", merge=True)
    print(f"\n{quantisation.value}\n{told}")
    assert "reloaded by Transformers and PEFT alone: 7 of 7 answers equal" in told
