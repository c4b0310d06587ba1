"""`trainer.use_liger_kernel`: the losses of a run through Liger's kernels are those of a plain one, and it leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lab import run as running
from lab.errors import ConfigError, ModelError
from lab.run import assembly
from lab.store import curve_files, runs
from lab.training import liger
from lab.training.fast.fused_step import is_rms_norm

TESTS = Path(__file__).parent
needs_liger = pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is an extra: pip install '.[liger]'")


def losses(runs_dir: Path, run: runs.Run) -> list[float]:
    """Of a run, step by step."""
    return [row["train/loss"] for row in curve_files.read(runs.folder(runs_dir, run.identity)) if "train/loss" in row]


def in_interpreter(*command: object) -> str:
    """What a Python command prints with Triton's interpreter."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


OF_ONE_BLOCK = """
import json, sys, liger_on_cpu, torch
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2MLP, Qwen2VLRMSNorm
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from lab.training import liger
from lab.training.fast import fused_step
torch.manual_seed(0)
modules = Qwen2VLRMSNorm(24), Qwen2MLP(Qwen2Config(hidden_size=24, intermediate_size=40))
known, given = (fused_step.is_rms_norm(modules[0]), liger.is_gated(modules[1])), torch.randn(2, 3, 24)
def act(module, forward):
    x = given.clone().requires_grad_()
    y = forward(x)
    y.square().sum().backward()
    gradients = [x.grad, *(each.grad.clone() for each in module.parameters())]
    module.zero_grad()
    return [y.detach(), *gradients]
gaps = []
for module, forward in zip(modules, (liger.norm_forward, liger.mlp_forward)):
    own, plain = act(module, lambda x: forward(module, x)), act(module, module)
    gaps.append(max(float(((one - other).abs() / (1 + other.abs())).max()) for one, other in zip(own, plain, strict=True)))
print(json.dumps([all(known), *gaps]))
"""


@needs_liger
def test_a_kernel_gives_what_the_module_gives() -> None:
    """Forward and every gradient, in float32, by the kernels themselves as Triton interprets them."""
    known, *gaps = json.loads(in_interpreter("-c", OF_ONE_BLOCK).splitlines()[-1])
    assert known and max(gaps) < 1e-5


@needs_liger
@pytest.mark.bar
@pytest.mark.parametrize("given", [(), ("trainer.gradient_checkpointing=true",)])
def test_losses_of_twenty_steps_are_those_of_the_plain_step(given: tuple[str, ...], small, tiny_folder, tmp_path) -> None:
    """By the command line, to rounding; minival is looked at between, through the plain modules."""
    size = ("data.num_train=8", "data.num_minival=4", "data.num_dev=4", "trainer.batch_size=1", "trainer.max_steps=20", "trainer.val_every=5")
    both = (*size, "trainer.log_every=1", "evaluation.latency_examples=0", "evaluation.verify=false", "tracking.enabled=false", *given)
    x, folder = small(*both), tmp_path / "interpreted"
    plain = losses(Path(x.tracking.runs_dir), running.run_alone(x, "command", time.time()))
    places = (f"model.path={tiny_folder}", f"tracking.runs_dir={folder}", f"tracking.cache_dir={x.tracking.cache_dir}")
    in_interpreter(TESTS / "liger_on_cpu.py", *both, *places, "trainer.use_liger_kernel=true")
    (run,) = runs.all_runs(folder)
    found = losses(folder, run)
    print(f"\nlosses apart by {max(abs(one - other) / other for one, other in zip(found, plain, strict=True)):.1e} at most")
    assert len(plain) == 20 and found == pytest.approx(plain, rel=1e-4)
    assert run.facts["liger"]["modules"] > 0 and 0 < run.facts["liger"]["gap"] < 1e-4


class Twice(nn.Module):
    """A feed-forward that only looks like a gated one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.GELU()


def test_modules_are_known_by_what_they_compute(small) -> None:
    """Qwen's own are; a gate of another kind, and a norm that adds one to its weight as Gemma's, are not."""
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

    vlm = running.load_shared(small()).vlm
    forwards = [type(module).__name__ for module, _ in liger.kernels(vlm)]
    config = vlm.base_model.config.get_text_config()
    assert sorted(set(forwards)) == ["Qwen2MLP", "Qwen2VLRMSNorm"] and len(forwards) == 3 * config.num_hidden_layers
    assert not liger.is_gated(Twice()) and not is_rms_norm(GemmaRMSNorm(2)) and not is_rms_norm(nn.LayerNorm(2))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "compiled by Triton, for a GPU"),
        (("trainer.torch_compile=true",), "trainer.torch_compile=true: "),
        (("trainer.strategy=fsdp", "trainer.devices=2"), "trainer.strategy=fsdp: "),
        (("model.fp32_layernorms=true", "model.dtype=bfloat16"), "model.fp32_layernorms=true: "),
    ],
)
def test_what_it_does_not_go_with_is_refused_before_anything_loads(given: tuple[str, ...], sentence: str, composer, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    if given:
        monkeypatch.setenv(liger.INTERPRETED, "1")
    with pytest.raises(ConfigError, match=f"^trainer.use_liger_kernel=true, .*{sentence}.*, or trainer.use_liger_kernel=false"):
        assembly.check(composer("trainer.use_liger_kernel=true", *given))


def test_a_model_without_such_modules_is_refused_before_a_step(monkeypatch, small) -> None:
    x = small("trainer.use_liger_kernel=true")
    prepared = running.load_shared(small())
    monkeypatch.setattr(liger, "kernels", lambda vlm: [])
    with pytest.raises(ConfigError, match="hold neither"):
        running.try_out(x, prepared)


@needs_liger
def test_kernels_that_compute_something_else_are_refused(monkeypatch, small) -> None:
    """As a later version of Liger might; before the first step, and the modules are as they were."""
    from lab.run.assembly import attached
    from lab.training import loop

    monkeypatch.setattr(liger, "norm_forward", lambda norm, x: 2 * x)
    monkeypatch.setattr(liger, "mlp_forward", lambda mlp, x: type(mlp).forward(mlp, x))
    x = small("trainer.use_liger_kernel=true")
    prepared = running.prepare(small())
    with attached(x, prepared.vlm) as vlm, pytest.raises(ModelError, match="log p of an answer's token is another than without"):
        loop.train(x, vlm, prepared.encoded(small()), Path(x.tracking.runs_dir) / "arm", 0.0)
    assert not any("forward" in vars(module) for module in prepared.vlm.base_model.modules())
    assert torch.is_grad_enabled()
