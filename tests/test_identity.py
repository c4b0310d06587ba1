"""What stands for a checkpoint: every byte of its weights counts, a copy is the same, and no file is hashed twice."""

from __future__ import annotations

import builtins
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lab import model
from lab.artifacts import contract
from lab.config import Experiment
from lab.errors import ContractError, ModelError
from lab.model import identity
from lab.model.answers import readout
from lab.model.encoding import Encoder
from lab.training.features import FeatureStore


@pytest.fixture
def base(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "base")


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as written long ago, and nothing is remembered of other tests."""
    monkeypatch.setattr(identity, "SETTLED_S", -60.0)
    monkeypatch.setattr(identity, "_KNOWN", {})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Weight files that are opened to be read."""
    seen: list[str] = []
    opened = builtins.open

    def spy(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if str(path).endswith(".safetensors"):
            seen.append(Path(path).name)
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(identity, "open", spy, raising=False)
    return seen


def spans(path: Path) -> dict[str, tuple[int, int]]:
    """First and last byte of every tensor in a file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: tuple(8 + length + at for at in one["data_offsets"]) for name, one in header.items() if name != "__metadata__"}


def test_every_byte_of_every_tensor_counts(base: Path) -> None:
    """One bit of the first, the middle and the last byte of each tensor, one after another: no two files have one hash."""
    path = base / identity.WEIGHTS
    whole = identity.identify(str(base))
    seen = {whole["weights"]}
    tensors = spans(path)
    assert len(tensors) > 50
    with path.open("r+b", buffering=0) as file:
        for name, (start, end) in tensors.items():
            for at in sorted({start, (start + end) // 2, end - 1}):
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 1]))
                found = identity.identify(str(base))["weights"]
                assert found not in seen, (name, at)
                seen.add(found)
                file.seek(at)
                file.write(byte)
    assert identity.identify(str(base)) == whole


def test_a_copy_is_the_same_and_another_config_is_not(base: Path, tmp_path: Path) -> None:
    whole = identity.identify(str(base))
    assert identity.identify(str(shutil.copytree(base, tmp_path / "elsewhere"))) == whole
    (tmp_path / "snapshot").mkdir()
    for path in base.iterdir():  # the hub's cache: links to blobs
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert identity.identify(str(tmp_path / "snapshot")) == whole
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "transformers_version": "5.99"}))
    assert identity.identify(str(base)) == whole, "who wrote it does not matter"
    config["vision_config"]["hidden_act"] = "gelu_new"
    (base / "config.json").write_text(json.dumps(config))
    edited = identity.identify(str(base))
    assert edited["weights"] == whole["weights"] and edited["config"] != whole["config"]


def test_shards_and_an_adapter_beside_them_count(base: Path) -> None:
    tensors = load_file(base / identity.WEIGHTS)
    (base / identity.WEIGHTS).unlink()
    names = sorted(tensors)
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == shard}, base / shard, metadata={"format": "pt"})
    (base / identity.INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    whole = identity.identify(str(base))["weights"]
    last = base / "model-00002-of-00002.safetensors"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    edited = identity.identify(str(base))["weights"]
    (base / "adapter_config.json").write_text("{}")
    (base / "adapter_model.safetensors").write_bytes(b"x")
    assert len({whole, edited, identity.identify(str(base))["weights"]}) == 3
    last.unlink()
    with pytest.raises((OSError, ModelError)):
        identity.identify(str(base))


def test_a_file_is_read_once_and_again_when_it_has_changed(
    base: Path, tmp_path: Path, settled: None, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> str:
        return identity.identify(str(base), cache_dir=tmp_path / "cache")["weights"]

    path = base / identity.WEIGHTS
    whole = found()
    assert found() == whole and read == [identity.WEIGHTS]
    monkeypatch.setattr(identity, "_KNOWN", {})  # another process
    assert found() == whole and len(read) == 1
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert found() == whole and len(read) == 2
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `touch -r` does: size and mtime are as before
    assert found() != whole and len(read) == 3
    for entry in (tmp_path / "cache" / "weights").iterdir():
        entry.write_text("{")
    monkeypatch.setattr(identity, "_KNOWN", {})
    assert found() != whole and len(read) == 4, "what is kept is damaged: hashed again"


def test_what_was_just_written_is_not_remembered(base: Path, tmp_path: Path, read: list[str]) -> None:
    """Its next write may leave the file's times as they are: a clock tick is some milliseconds."""
    (base / identity.WEIGHTS).touch()
    for _ in range(2):
        identity.identify(str(base), cache_dir=tmp_path)
    assert len(read) == 2 and not (tmp_path / "weights").exists()


def test_hashing_shows_itself_where_it_takes_time(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, int]] = []
    (base / identity.WEIGHTS).touch()
    identity.identify(str(base), report=lambda _, done, total, __: shown.append((done, total)))
    assert not shown
    monkeypatch.setattr(identity, "SHOWN_FROM", 0)
    identity.identify(str(base), report=lambda _, done, total, __: shown.append((done, total)))
    assert shown[-1][0] == shown[-1][1] == (base / identity.WEIGHTS).stat().st_size // 1_000_000


def test_a_cache_that_cannot_be_written_is_said(base: Path, tmp_path: Path, settled: None) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="tracking.cache_dir"):
        identity.identify(str(base), cache_dir=tmp_path / "file")


def between(folder: Path) -> None:
    """Edit the tower in a place that is on no stride of 64 over its tensor."""
    path = folder / identity.WEIGHTS
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    tensors["visual.blocks.0.attn.proj.weight"][:, 24:48] = 0
    save_file(tensors, path, metadata=metadata)


def described(x: Experiment) -> dict[str, Any]:
    vlm = model.load(x.model)
    return contract.describe(x, vlm, Encoder(vlm, x.prompt), readout(vlm.processor.tokenizer, x.prompt))


def test_an_edited_base_has_other_features_and_another_contract(composer: Callable[..., Experiment], base: Path, tmp_path: Path) -> None:
    x = composer(f"model.path={base}")
    before = model.load(x.model)
    store, trained = FeatureStore(tmp_path / "cache", before, Encoder(before, x.prompt)), described(x)
    moved = composer(f"model.path={shutil.copytree(base, tmp_path / 'moved')}")
    vlm = model.load(moved.model)
    assert FeatureStore(tmp_path / "cache", vlm, Encoder(vlm, x.prompt)).key == store.key, "a copy's features are the same"
    assert contract.differences(trained, described(moved)) == []
    between(base)
    after = model.load(x.model)
    assert FeatureStore(tmp_path / "cache", after, Encoder(after, x.prompt)).key != store.key
    (reason,) = contract.differences(trained, described(x))
    assert reason.startswith("base.weights: trained with")


def other_merges(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    merges = values["model"]["merges"]
    merges[-2], merges[-1] = merges[-1], merges[-2]
    path.write_text(json.dumps(values))


def test_a_tokenizer_with_the_same_words_and_other_rules_is_another(composer: Callable[..., Experiment], base: Path) -> None:
    x = composer(f"model.path={base}")
    trained = described(x)
    assert contract.differences(trained, described(x)) == []
    other_merges(base)
    (reason,) = contract.differences(trained, described(x))
    assert reason.startswith("tokenizer.hash: trained with")


def test_a_contract_of_the_first_version_is_refused_with_the_reason(composer: Callable[..., Experiment], tiny_folder: Path) -> None:
    now = described(composer(f"model.path={tiny_folder}"))
    trained = json.loads(json.dumps({**now, "version": 1}))
    trained["base"] |= {"weights": "0123456789abcdef"}
    del trained["base"]["config"]
    with pytest.raises(ContractError, match="64 numbers of each of the base's tensors") as refused:
        contract.enforce(trained, now, "this evaluation")
    assert "base.weights:" not in str(refused.value) and "version: trained with 1, now 3" in str(refused.value)
    assert contract.differences(trained, trained) == []


def test_a_contract_of_the_second_version_is_read(composer: Callable[..., Experiment], tiny_folder: Path, tmp_path: Path) -> None:
    """It named the spellings of True and of False; all else is as it is now."""
    now = json.loads(json.dumps(described(composer(f"model.path={tiny_folder}"))))
    true, false = now["answers"]["options"]
    contract.save(tmp_path, {**now, "version": 2, "answers": {"true": true, "false": false}})
    assert contract.load(tmp_path) == now
