"""Memory decides how many arms of a sweep run at once, and whether one needs gradient checkpointing."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from lab import run as running
from lab.costs import device_memory
from lab.run import memory
from lab.training import capacity


@pytest.fixture(scope="module")
def prepared(composer, tmp_path_factory):
    x = composer("model.path=tiny_base", "data.num_train=16", "data.num_minival=4", "data.num_dev=8",
                 f"tracking.cache_dir={tmp_path_factory.mktemp('cache')}")  # fmt: skip
    return x, running.prepare(x)


@pytest.fixture
def given(prepared):
    x, base = prepared
    return [f"model.path={x.model.path}", "data.num_train=16", f"tracking.cache_dir={x.tracking.cache_dir}"], base


def test_an_arm_needs_what_it_does_not_share(given, composer) -> None:
    overrides, base = given

    def need(*more):
        return memory.own_bytes(composer(*overrides, *more), base)

    plain = need()
    weights = sum(parameter.nbytes for parameter in base.vlm.base_model.parameters())
    assert plain - need("evaluation.verify=false") == memory.GATE_COPIES * weights
    gate = memory.SURROUNDINGS + memory.GATE_COPIES * weights
    assert need("trainer.max_steps=0", "lora=none") == gate
    activations = plain - gate - 16 * 16 * 11_200
    assert need("trainer.batch_size=16") - plain == pytest.approx(activations)
    between = 8 * 4 * 16 * 35 * length(base)
    assert need("lora.r=32") - plain == pytest.approx(16 * 11_200 * 16 + between), "16 ranks more, and what is between A and B"
    x = composer(*overrides)
    (examples,) = (made["train"] for made in base.examples.values())
    choice = capacity.choose(x.trainer, x.optim, base.vlm, examples, x.lora)
    assert choice.plain == pytest.approx(activations)
    recomputing = need("trainer.gradient_checkpointing=true")
    assert recomputing == pytest.approx(plain - choice.plain + choice.checkpointed) and recomputing < plain - activations / 2


def length(base) -> int:
    (examples,) = (made["train"] for made in base.examples.values())
    return examples.longest.length


def test_the_memory_of_the_device_decides_on_gradient_checkpointing(given, composer, monkeypatch) -> None:
    overrides, base = given
    (examples,) = (made["train"] for made in base.examples.values())

    def choice(*more) -> capacity.Choice:
        x = composer(*overrides, *more)
        return capacity.choose(x.trainer, x.optim, base.vlm, examples, x.lora)

    roomy = choice()
    assert not roomy.on and not roomy.asked and roomy.there == capacity.total(torch.device("cpu"))
    assert roomy.checkpointed < roomy.plain
    need = roomy.fixed + roomy.plain
    for there, on in ((need / device_memory.FILLS * 1.01, False), (need / device_memory.FILLS * 0.99, True)):
        monkeypatch.setattr(capacity, "total", lambda device, processes, there=there: there)
        assert choice().on == on
        assert choice("trainer.gradient_checkpointing=true").on and not choice("trainer.gradient_checkpointing=false").on
    facts = choice().facts()
    assert facts["on"] and facts["by"] == "memory plan" and facts["device_gb"] == round(there / 1e9, 3)
    assert choice().needed == roomy.fixed + roomy.checkpointed


def test_what_a_device_has_is_all_of_it_or_what_is_allowed(tmp_path) -> None:
    cpu = torch.device("cpu")
    assert capacity.total(cpu, 1, tmp_path, tmp_path) == math.inf
    (tmp_path / "meminfo").write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    assert capacity.total(cpu, 1, tmp_path, tmp_path) == 2000 * 1024
    assert capacity.total(cpu, 4, tmp_path, tmp_path) == 500 * 1024
    (tmp_path / "memory.max").write_text("700\n")
    assert capacity.total(cpu, 1, tmp_path, tmp_path) == 700
    assert 0 < capacity.total(cpu) < 2**50


def test_room_is_the_least_of_what_is_there_and_what_is_allowed(tmp_path) -> None:
    assert capacity.room(tmp_path, tmp_path) == math.inf
    (tmp_path / "meminfo").write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    assert capacity.room(tmp_path, tmp_path) == 1000 * 1024
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert capacity.room(tmp_path, tmp_path) == 1000 * 1024
    (tmp_path / "memory.max").write_text("700\n")
    assert capacity.room(tmp_path, tmp_path) == 400
    (tmp_path / "memory.max").write_text("200\n")
    assert capacity.room(tmp_path, tmp_path) == 0
    assert 0 < capacity.room() < 2**50


def test_fewer_ride_where_memory_is_short(prepared, monkeypatch, caplog) -> None:
    x, base = prepared
    todo = [x] * 3
    need = memory.own_bytes(x, base)
    for share, riding in ((10.0, 4), (4.0, 4), (3.9, 3), (0.1, 1)):
        monkeypatch.setattr(capacity, "room", lambda share=share: share * need)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert running.max_concurrent_arms(todo, base, 4) == riding
        assert ("hydra.launcher.max_arms" in caplog.text) == (riding < 4)
