"""`trainer.torch_compile`: the losses of a run whose blocks are compiled are those of a plain one, and it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from lab import run as running
from lab.config import identity
from lab.errors import ConfigError
from lab.run import assembly
from lab.run.assembly import attached
from lab.store import curve_files
from lab.training import loop

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles with g++, which is not here")
TREES = ("data.order=by_image", "trainer.layout=trees")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which PyTorch looks for itself
@pytest.mark.parametrize(
    ("backend", "steps", "given"),
    [("eager", 2, ()), *(pytest.param("inductor", 20, given, marks=[pytest.mark.bar, needs_compiler]) for given in ((), TREES))],
)
def test_losses_are_those_of_the_plain_step(backend: str, steps: int, given: tuple[str, ...], small, caplog, monkeypatch) -> None:
    """To rounding, with a look at minival among them that is taken as ever; eager: the traced blocks, run without a compiler."""
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=backend))
    own = small(*given, f"trainer.max_steps={steps}", "trainer.log_every=1", "trainer.val_every=1")
    prepared, curves, facts = running.prepare(own), {}, {}
    for asked in (False, True):
        counters.clear()
        x = dataclasses.replace(own, trainer=dataclasses.replace(own.trainer, torch_compile=asked))
        with attached(x, prepared.vlm) as vlm, caplog.at_level("INFO", "lab"):
            folder = Path(x.tracking.runs_dir) / str(asked)
            facts = loop.train(x, vlm, prepared.encoded(x), folder, time.time()).facts
            assert not any(module._compiled_call_impl for module in vlm.model.modules())
        assert bool(counters["stats"]["unique_graphs"]) is asked
        curves[asked] = [row["train/loss"] for row in curve_files.read(folder) if "train/loss" in row]
    assert len(curves[False]) == steps and curves[True] == pytest.approx(curves[False], rel=1e-4)
    assert facts["torch_compile"]["first_forward_s"] > facts["torch_compile"]["second_forward_s"]
    assert "the first forward and its backward took" in caplog.text and identity(x) != identity(own)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("trainer.strategy=fsdp", "trainer.devices=2"), "trainer.strategy=fsdp: "),
        (("model.quantisation=nf4",), "model.quantisation=nf4: "),
        ((), "there is no g\\+\\+ here"),
    ],
)
def test_what_is_not_compiled_is_refused_before_anything_loads(given: tuple[str, ...], sentence: str, composer, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=f"^trainer.torch_compile=true, .*{sentence}.* or trainer.torch_compile=false"):
        assembly.check(composer("trainer.torch_compile=true", *given))
