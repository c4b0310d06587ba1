"""The feature cache: equal to computing, deduplicated, never half-written, never used when damaged."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lab import data, model, vision_tokens
from lab.errors import ConfigError
from lab.model.encoded import TokenizedPrompt
from lab.model.encoding import Encoder
from lab.records import Picture
from lab.training import eviction, features
from lab.training.feature_shards import Names, image_key
from lab.training.features import FeatureStore
from lab.training.prompt_ids import Texts


@pytest.fixture(scope="module")
def world(composer, tiny_folder, tmp_path_factory):
    x = composer(f"model.path={tiny_folder}", "data.num_train=64", "data.num_minival=8", "data.num_dev=16")
    splits = data.load(x.data, tmp_path_factory.mktemp("cache"))
    vlm = model.load(x.model)
    pictures = [(image_key(p), p) for i in range(len(splits.train)) for p in splits.train[i].images]
    return x, vlm, Encoder(vlm, x.prompt), pictures


def fill(store, pictures, vlm, encoder) -> int:
    return store.fill(Names(keys_of(pictures)), dict(pictures).__getitem__, vlm, encoder)


def keys_of(pictures) -> np.ndarray:
    return np.frombuffer(b"".join(key for key, _ in pictures), np.uint8).reshape(-1, 32)


def direct(vlm, encoder, picture) -> torch.Tensor:
    pixels, grid = encoder.picture(picture)
    with torch.no_grad():
        return vlm.encode_images(encoder.architecture.stack([pixels], [grid]))[0]


def test_cached_equals_computed_bit_for_bit(world, tmp_path) -> None:
    _, vlm, encoder, pictures = world
    store = FeatureStore(tmp_path, vlm, encoder)
    distinct = len({key for key, _ in pictures})
    assert distinct < len(pictures), "images are shared by statements"
    assert fill(store, pictures, vlm, encoder) == distinct
    assert fill(store, pictures, vlm, encoder) == 0
    again = FeatureStore(tmp_path, vlm, encoder)
    assert fill(again, pictures, vlm, encoder) == 0
    for key, picture in pictures[:10]:
        assert torch.equal(again.get(key)[0], direct(vlm, encoder, picture))


def test_the_key_knows_pixel_budget_attention_and_crop(world, composer, tmp_path) -> None:
    x, vlm, encoder, pictures = world
    smaller = vlm.share()
    vision_tokens.install(smaller, composer("vision_tokens=resize", "vision_tokens.budget=4").vision_tokens)
    eager = model.load(composer(f"model.path={x.model.path}", "model.attn_implementation=eager").model)
    keys = [FeatureStore(tmp_path, v, Encoder(v, x.prompt)).key for v in (vlm, smaller, eager)]
    assert len(set(keys)) == 3
    picture = pictures[0][1]
    assert image_key(picture) != image_key(Picture(picture.source, picture.data, crop=(0, 0, 8, 8)))


@pytest.mark.parametrize("damage", ["flip", "grid", "truncate", "garbage"])
def test_a_damaged_shard_is_rebuilt_never_used(world, tmp_path, damage, caplog) -> None:
    _, vlm, encoder, pictures = world
    store = FeatureStore(tmp_path, vlm, encoder)
    fill(store, pictures, vlm, encoder)
    (shard,) = store.folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[-4000] ^= 1
    elif damage == "grid":
        tensors = load_file(shard)
        tensors["grids"][3] = tensors["grids"][3].flip(0)
        save_file(tensors, tmp_path / "turned")
        content = (tmp_path / "turned").read_bytes()
    elif damage == "truncate":
        content = content[: len(content) // 2]
    else:
        content[:64] = os.urandom(64)
    shard.unlink()
    shard.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = FeatureStore(tmp_path, vlm, encoder)
        assert fill(again, pictures, vlm, encoder) > 0
    assert "computed again" in caplog.text
    for key, picture in pictures[:20]:
        assert torch.equal(again.get(key)[0], direct(vlm, encoder, picture))


def test_two_writers_one_killed(world, tmp_path, monkeypatch) -> None:
    """Every feature is right afterwards and no file is half-written."""
    _, vlm, encoder, pictures = world
    monkeypatch.setattr(features, "SHARD_IMAGES", 8)
    monkeypatch.setattr(features, "BATCH_PATCHES", 128)

    def write() -> None:
        fill(FeatureStore(tmp_path, vlm, encoder), pictures, vlm, encoder)

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    folder = None
    while folder is None or not list(folder.glob("*.safetensors")):
        time.sleep(0.005)
        folder = next(Path(tmp_path).glob("features/*"), None)
    os.kill(writers[0].pid, signal.SIGKILL)
    for writer in writers:
        writer.join(60)
    assert writers[0].exitcode == -signal.SIGKILL and writers[1].exitcode == 0
    store = FeatureStore(tmp_path, vlm, encoder)
    assert fill(store, pictures, vlm, encoder) == 0
    for key, picture in dict(pictures).items():
        assert torch.equal(store.get(key)[0], direct(vlm, encoder, picture))


def test_no_pickle_is_ever_opened(world, tmp_path) -> None:
    """A pickle that lies in the cache under a shard's name is deleted, not executed."""
    import pickle

    _, vlm, encoder, pictures = world
    store = FeatureStore(tmp_path, vlm, encoder)
    flag = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return (flag.touch, ())

    (store.folder / "evil.safetensors").write_bytes(pickle.dumps(Malicious()))
    again = FeatureStore(tmp_path, vlm, encoder)
    assert not flag.exists() and not (store.folder / "evil.safetensors").exists()
    assert fill(again, pictures[:2], vlm, encoder) > 0
    assert np.isfinite(again.get(pictures[0][0])[0].numpy()).all()


@pytest.mark.parametrize("dies", [False, True])
def test_processes_share_the_images_and_one_that_dies_leaves_nothing_missing(world, tmp_path, monkeypatch, caplog, dies) -> None:
    _, vlm, encoder, pictures = world
    parent, whole = os.getpid(), FeatureStore.write

    def write(store, shard) -> None:
        if dies and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(store, shard)

    monkeypatch.setattr(features, "num_workers", lambda *_: 3)
    monkeypatch.setattr(FeatureStore, "write", write)
    seen: list[tuple[int, int]] = []
    store = FeatureStore(tmp_path, vlm, encoder)
    names = Names(keys_of(pictures))
    distinct = len({key for key, _ in pictures})
    assert store.fill(names, dict(pictures).__getitem__, vlm, encoder, lambda _, done, of, __: seen.append((done, of))) == distinct
    assert seen[-1] == (distinct, distinct), "the bar ends"
    assert ("ended early" in caplog.text) == dies
    again = FeatureStore(tmp_path, vlm, encoder)
    for key, picture in pictures[:10]:
        assert torch.equal(again.get(key)[0], direct(vlm, encoder, picture))


@pytest.mark.parametrize("processes", [1, 3])
def test_what_is_refused_beside_ends_the_computation(world, tmp_path, monkeypatch, processes) -> None:
    """Nothing goes on without this process, and the same images can be computed afterwards."""
    _, vlm, encoder, pictures = world

    def refuse() -> None:
        assert len(multiprocessing.active_children()) == processes - 1
        raise ConfigError("lora: no")

    monkeypatch.setattr(features, "num_workers", lambda *_: processes)
    with pytest.raises(ConfigError, match="lora: no"):
        FeatureStore(tmp_path, vlm, encoder).fill(Names(keys_of(pictures)), dict(pictures).__getitem__, vlm, encoder, beside=refuse)
    assert not multiprocessing.active_children()
    fill(store := FeatureStore(tmp_path, vlm, encoder), pictures[:4], vlm, encoder)
    assert all(store.find(key) for key, _ in pictures[:4])


def test_a_full_cache_loses_what_nobody_uses_first(world, composer, tmp_path) -> None:
    """Least recently used first; a store in use stays, however old and large, and a removed one is computed again."""
    x, vlm, encoder, pictures = world
    stores = []
    for budget in (4, 9, 16):
        resized = vlm.share()
        vision_tokens.install(resized, composer("vision_tokens=resize", f"vision_tokens.budget={budget}").vision_tokens)
        own = Encoder(resized, x.prompt)
        store = FeatureStore(tmp_path, resized, own)
        fill(store, pictures[:20], resized, own)
        stores.append((store, store.folder, resized, own))
    sizes = [eviction.size(folder) for _, folder, _, _ in stores]
    for age, (_, folder, _, _) in enumerate(stores):
        os.utime(folder / eviction.IN_USE, (age, age))
    assert eviction.trim(tmp_path, 0) == [], "all are in use"
    first, second = stores[0][1], stores[1][1]
    kept = stores.pop()
    del stores[:], store
    assert eviction.trim(tmp_path, sum(sizes[1:])) == [first]
    assert eviction.trim(tmp_path, 0) == [second]
    assert not first.exists() and kept[1].exists()
    del kept
    assert len(eviction.trim(tmp_path, 0)) == 1
    assert fill(FeatureStore(tmp_path, resized, own), pictures[:20], resized, own) > 0


def test_names_are_found_where_they_stand() -> None:
    """Repeated names, names that agree in what is bisected over, absent ones, none at all."""
    generator = np.random.default_rng(0)
    names = generator.integers(0, 256, (40, 32), dtype=np.uint8)
    names[7] = names[3]
    names[11, :8] = names[5, :8]
    found = Names(names)
    for i, name in enumerate(names):
        assert found.find(name.tobytes()) == (3 if i == 7 else i)
    assert found.find(bytes(32)) is None and found.find(names[5, :8].tobytes() + bytes(24)) is None
    assert list(found.firsts()) == [name.tobytes() for i, name in enumerate(names) if i != 7]
    nothing = Names(names[:0])
    assert nothing.find(bytes(32)) is None and list(nothing.firsts()) == []


def test_packed_texts_are_the_texts() -> None:
    texts = [TokenizedPrompt(np.arange(n), np.arange(n, n + 2), (1, 0)[:n]) for n in (3, 0, 1)]
    packed = Texts(texts)
    for i, text in enumerate(texts):
        again = packed[i]
        assert np.array_equal(again.prompt_ids, text.prompt_ids) and np.array_equal(again.answer_ids, text.answer_ids)
        assert again.image_order == text.image_order and again.prompt_ids.dtype == np.int64
