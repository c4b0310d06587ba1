"""Memory decides how many arms of a sweep ride together."""

from __future__ import annotations

import logging
import math

import pytest

from lab import run as running
from lab.run import memory


@pytest.fixture(scope="module")
def prepared(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=16", "data.num_minival=4", "data.num_dev=8",
                 f"tracking.cache_dir={tmp_path_factory.mktemp('cache')}")  # fmt: skip
    return x, running.prepare(x)


def test_an_arm_needs_what_it_does_not_share(prepared, composer) -> None:
    x, base = prepared
    given = [f"model.path={x.model.path}", f"tracking.cache_dir={x.tracking.cache_dir}"]

    def need(*overrides):
        return memory.own_bytes(composer(*given, *overrides), base)

    plain = need()
    weights = sum(parameter.nbytes for parameter in base.vlm.bare.parameters())
    assert plain - need("evaluation.verify=false") == memory.GATE_COPIES * weights
    assert need("lora.r=32") - plain == 16 * 11_200 * 16, "16 ranks more: in + out of every layer, four numbers of 4 bytes each"
    activations = plain - need("trainer.max_steps=0", "lora=none") - 16 * 16 * 11_200
    assert need("trainer.batch_size=16") - plain == pytest.approx(activations)
    assert need("trainer.gradient_checkpointing=true") == pytest.approx(plain - activations * 15 / 17)


def test_room_is_the_least_of_what_is_there_and_what_is_allowed(tmp_path) -> None:
    assert memory.room(tmp_path, tmp_path) == math.inf
    (tmp_path / "meminfo").write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    assert memory.room(tmp_path, tmp_path) == 1000 * 1024
    (tmp_path / "memory.current").write_text("300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.room(tmp_path, tmp_path) == 1000 * 1024
    (tmp_path / "memory.max").write_text("700\n")
    assert memory.room(tmp_path, tmp_path) == 400
    (tmp_path / "memory.max").write_text("200\n")
    assert memory.room(tmp_path, tmp_path) == 0
    assert 0 < memory.room() < 2**50


def test_fewer_ride_where_memory_is_short(prepared, monkeypatch, caplog) -> None:
    x, base = prepared
    todo = [x] * 3
    need = memory.own_bytes(x, base)
    for share, riding in ((10.0, 4), (4.0, 4), (3.9, 3), (0.1, 1)):
        monkeypatch.setattr(memory, "room", lambda share=share: share * need)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert running.riders(todo, base, 4) == riding
        assert ("hydra.launcher.max_arms" in caplog.text) == (riding < 4)
