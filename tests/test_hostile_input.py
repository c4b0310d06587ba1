"""Malformed manifests and images from a seeded generator: each ends in a typed error or among the skipped.

Four promises, for every case: no exception but `LabError`, with the file and the cause in its text; every record is
read or counted as skipped; nothing hangs; no file outside the root is opened (told by an audit hook on `open`).
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import signal
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lab.config import DataDial, OnBad
from lab.data import load
from lab.data.images import decode, verify
from lab.errors import DataError, LabError
from lab.records import Picture, Splits

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

LIMIT_S = 20
_opened: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], (str, bytes)):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_hook)


@contextmanager
def watched(*allowed: Path) -> Iterator[None]:
    """Fail if the block takes longer than LIMIT_S, or opens a file that lies in none of the allowed folders."""
    global _opened

    def late(*_: object) -> None:
        raise TimeoutError(f"still busy after {LIMIT_S} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    _opened = []
    try:
        yield
    finally:
        signal.alarm(0)
        opened, _opened = _opened, None
    source = Path(__file__).parents[1]  # Python reads lines of it for a warning that it prints
    legal = [folder.resolve() for folder in (*allowed, Path(sys.prefix), Path(sys.base_prefix), source / "lab", source / "tests")]
    strays = [
        path for path in opened if not any(Path(os.path.realpath(path)).is_relative_to(folder) for folder in legal)
    ]
    assert strays == []


# ---- manifests -------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2.5, 10**30, "", " ", "\0", "\ud800", "None", "yes", "tRue", [], {}, ["true"], {"a": 1},
    "x" * 5000, "../../secret", "/etc/passwd", "..", "a/b", "a\\b", "C:\\x", "%2e%2e/x", "~", "$HOME", "1-2-3", "-1",
    "\uff11-\uff12", "1e3", "\u0663-\u0663",
)  # fmt: skip
RAW = (
    b"", b"\0", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"{", b"}", b"[", b"[]", b"[{}]", b"null", b"NaN", b'"text"',
    b"{'a': 1}", b'{"a": 1,}', b'{"a": 1 /* c */}', b'{"x": NaN}', b'{"x": Infinity}', b'{"x": 1e999}',
    b'{"x": "\\u12"}', b'{"x": "\n"}', b"[" * 9999, b'{"a":' * 9999, b'{"a": ' + b"9" * 9999 + b"}",
    b'{"a": 1, "a": 2}', b"\xc3\x28",
    b"\xed\xa0\x80", b"{}" * 50, b'{"identifier": "' + b"7" * (1 << 20) + b'"}',
)  # fmt: skip


def nlvr_row(k: int) -> dict:
    return {"identifier": f"{k}-0", "sentence": f"Sentence {k}", "label": "true", "directory": str(k)}


def nlvr2_row(k: int) -> dict:
    return {
        "identifier": f"dev-{k}-0-0",
        "sentence": f"Sentence {k}",
        "label": "True",
        "left_url": "l",
        "right_url": "r",
    }


def lay_out(root: Path, name: str) -> tuple[Path, list[dict]]:
    """Make a small good set: five statements; return its manifest and rows. A secret lies beside the root."""
    (root.parent / "secret.png").write_bytes(encoded()["PNG"])
    (root.parent / "secret").mkdir()
    rows = [(nlvr_row if name == "nlvr" else nlvr2_row)(k) for k in range(5)]
    manifest = root / "dev" / "dev.json" if name == "nlvr" else root / "dev.json"
    for k in range(5):
        folder = root / "dev" / "images" / str(k) if name == "nlvr" else root / "images" / "dev"
        folder.mkdir(parents=True, exist_ok=True)
        names = (
            [f"dev-{k}-0-{p}.png" for p in range(6)] if name == "nlvr" else [f"dev-{k}-0-img{s}.png" for s in (0, 1)]
        )
        for file in names:
            (folder / file).write_bytes(encoded()["PNG"])
    return manifest, rows


def mangle_values(rng: random.Random, rows: list[dict]) -> bytes:
    """Put a wrong value at a wrong place, or take a key away."""
    for _ in range(rng.randint(1, 2)):
        row = rng.choice(rows)
        key = rng.choice(sorted(row) or ["identifier"])
        if rng.random() < 0.2:
            row.pop(key, None)
        else:
            row[key] = rng.choice(VALUES)
    if rng.random() < 0.2:
        rows.append(dict(rng.choice(rows)))
    return "\n".join(map(json.dumps, rows)).encode()


def mangle_lines(rng: random.Random, rows: list[dict]) -> bytes:
    """Put a line that is no record between the records."""
    lines = [json.dumps(row).encode() for row in rows]
    lines.insert(rng.randint(1, len(lines)), rng.choice(RAW))
    return b"\n".join(lines)


def mangle_bytes(rng: random.Random, rows: list[dict]) -> bytes:
    """Flip, cut, repeat or re-encode bytes of the file."""
    data = bytearray("\n".join(map(json.dumps, rows)).encode())
    match rng.randrange(5):
        case 0:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            return bytes(data).decode().encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"]))
        case 3:
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.randint(1, 200))
        case 4:
            return rng.randbytes(rng.randint(1, 2000))
    return bytes(data)


def mangle_list(rng: random.Random, rows: list[dict]) -> bytes:
    """The same as one JSON list, then broken."""
    data = json.dumps(rows, indent=rng.choice([None, 1])).encode()
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(1, len(data))]
        case 1:
            return data.replace(b"},", b"}" + rng.choice([b"", b";", b",,", b", NaN,", b", 3,", b", [],"]), 1)
        case 2:
            return data + rng.choice([b"x", b"[]", b"\0", b",", b"\xff"])
        case _:
            return data.replace(b'"Sentence 3"', rng.choice([b"\xff", b"1e999", b'"\\ud800"', b"{}", b"[" * 9999]), 1)


MANGLERS: dict[str, Callable[[random.Random, list[dict]], bytes]] = {
    "values": mangle_values,
    "lines": mangle_lines,
    "bytes": mangle_bytes,
    "list": mangle_list,
}


def read(dial: DataDial, root: Path, cache: Path) -> Splits | str:
    """Load under watch; return the splits or the text of the error, which must name a file or a key and a cause."""
    with watched(root, cache):
        try:
            return load(dial, cache)
        except LabError as error:
            text = str(error)
    assert str(root) in text or "data." in text
    assert ": " in text
    assert len(text) < 8000
    assert text.isprintable() or "\n" in text
    return text


SEEDS = 45


@pytest.mark.parametrize("mangler", MANGLERS)
@pytest.mark.parametrize("name", ["nlvr", "nlvr2"])
def test_hostile_manifests(tmp_path: Path, name: str, mangler: str) -> None:
    manifest, rows = lay_out(tmp_path / "root", name)
    for seed in range(SEEDS):
        print("seed", seed)  # shown where it fails
        data = MANGLERS[mangler](random.Random(f"{name}/{mangler}/{seed}"), copy.deepcopy(rows))
        manifest.write_bytes(data)
        check_manifest(name, data, tmp_path / "root", tmp_path / f"cache{seed}")


def check_manifest(name: str, data: bytes, root: Path, cache: Path) -> None:
    """Every record is read or told of, and what is skipped says where and why."""
    strict = read(DataDial(name=name, root=str(root)), root, cache)
    lenient = read(DataDial(name=name, root=str(root), on_bad=OnBad.skip), root, cache)
    if isinstance(lenient, str):
        assert isinstance(strict, str)
        return
    per = 6 if name == "nlvr" else 1
    kept = sum(map(len, (lenient.train, lenient.minival, lenient.dev)))
    if isinstance(strict, str):
        assert lenient.skipped
    else:
        assert not lenient.skipped
        assert kept == sum(map(len, (strict.train, strict.minival, strict.dev)))
    if not data.lstrip().startswith(b"["):
        lines = [line for line in data.split(b"\n") if line.strip()]
        records = sum("is left out" not in skipped.reason for skipped in lenient.skipped)
        images = len(lenient.skipped) - records
        assert kept + images == per * (len(lines) - records)
    for skipped in lenient.skipped:
        assert str(root) in skipped.source or skipped.source.startswith("dev-")
        assert skipped.reason


@pytest.mark.parametrize("link", ["dev", "dev/images", "dev/images/3", "dev/images/3/dev-3-0-2.png", "dev/dev.json"])
@pytest.mark.parametrize("on_bad", list(OnBad))
def test_links_never_lead_out_of_nlvr(tmp_path: Path, link: str, on_bad: OnBad) -> None:
    root = tmp_path / "root"
    manifest, rows = lay_out(root, "nlvr")
    manifest.write_text("\n".join(map(json.dumps, rows)))
    (root / link).rename(tmp_path / "moved")
    (root / link).symlink_to(tmp_path / "moved")
    outcome = read(DataDial(name="nlvr", root=str(root), on_bad=on_bad), root, tmp_path / "cache")
    if on_bad is OnBad.skip and link.count("/") > 1:
        assert isinstance(outcome, Splits)
        assert len(outcome.skipped) == 1
        assert "symbolic link" in outcome.skipped[0].reason
    else:
        assert "symbolic link" in str(outcome)


# ---- images ----------------------------------------------------------------------------------------------------


def encoded() -> dict[str, bytes]:
    """One small noisy picture in each format that is read."""
    if not _ENCODED:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
        for name, kind, options in (
            ("PNG", "PNG", {}), ("JPEG", "JPEG", {}), ("PROGRESSIVE", "JPEG", {"progressive": True}),
            ("WEBP", "WEBP", {}), ("LOSSLESS", "WEBP", {"lossless": True}),
            ("GIF", "GIF", {}), ("BMP", "BMP", {}), ("TIFF", "TIFF", {}),
            ("LZW", "TIFF", {"compression": "tiff_lzw"}),
        ):  # fmt: skip
            out = io.BytesIO()
            noise.save(out, kind, **options)
            _ENCODED[name] = out.getvalue()
    return _ENCODED


_ENCODED: dict[str, bytes] = {}


def png(width: int, height: int, body: bytes, depth: int = 8, colour: int = 2, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG with a header of any size, and any chunks, with right checksums."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def film(kind: str, frames: int) -> bytes:
    out = io.BytesIO()
    pictures = [Image.new("RGB", (8, 8), (30 * k, 0, 0)) for k in range(frames)]
    pictures[0].save(out, kind, save_all=True, append_images=pictures[1:])
    return out.getvalue()


STUBS = (
    b"", b"\0", b"GIF89a", b"RIFF\xff\xff\xff\xffWEBP", b"BM", b"II*\0\xff\xff\xff\xff", b"\xff\xd8\xff", b"%PDF-1.7",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg xmlns='x'/>", b"P6 9 9 255 ",
)  # fmt: skip


def refused_images() -> dict[str, bytes]:
    """Images that must all be refused."""
    rng = random.Random(7)
    cases = {}
    for name, data in encoded().items():
        for cut in range(8):
            cases[f"{name}-cut-{cut}"] = data[: rng.randrange(1, int(len(data) * 0.95))]
        cases[f"{name}-beheaded"] = data[rng.randrange(4, 20) :]
        cases[f"{name}-zeroed"] = b"\0" * len(data)
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        for frames in (2, 7):
            cases[f"film-{kind}-{frames}"] = film(kind, frames)
    for k, (width, height) in enumerate(
        [(10**5, 10**5), (2**31 - 1, 2**31 - 1), (8001, 8001), (1, 64_000_001), (2**16, 2**15)]
    ):
        cases[f"bomb-{k}"] = png(width, height, b"\0" * 1000)
    for k, (width, height) in enumerate([(0, 0), (0, 5), (5, 0), (2**32 - 1, 1)]):
        cases[f"size-{k}"] = png(width, height, b"")
    text = b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 80_000_000)
    cases["text-bomb"] = png(4, 4, b"\0" * 52, 8, 2, text)
    cases["short-data"] = png(64, 64, b"\0" * 10)
    for k, data in enumerate(STUBS):
        cases[f"stub-{k}"] = data
    for k in range(20):
        cases[f"noise-{k}"] = rng.randbytes(rng.randint(1, 3000))
    return cases


REFUSED = refused_images()


def fuzzed(seed: int) -> tuple[str, bytes]:
    """Flip bytes of a good picture: it may still decode, but nothing else may happen than a picture or a `BadRecord`."""
    rng = random.Random(seed)
    name = rng.choice(sorted(encoded()))
    data = bytearray(encoded()[name])
    reach = rng.choice([40, 200, len(data)])
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(min(reach, len(data)))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    return name, bytes(data)


def test_there_are_enough_cases() -> None:
    assert len(REFUSED) >= 100
    assert SEEDS * len(MANGLERS) * 2 + len(REFUSED) >= 400


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_images_are_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / f"{case}.png"
    path.write_bytes(REFUSED[case])
    with watched(tmp_path), pytest.raises(DataError) as caught:
        decode(Picture(str(path)))
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) > len(f"{path}: ") + 10


@pytest.mark.parametrize("block", range(10))
def test_fuzzed_images_are_pictures_or_refused(tmp_path: Path, block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        name, data = fuzzed(seed)
        with watched(tmp_path):
            try:
                image = decode(Picture(f"{name}-{seed}", data))
            except DataError as error:
                refusal = str(error)
            else:
                refusal = None
                assert image.mode == "RGB"
                assert min(image.size) > 0
        assert refusal is None or refusal.startswith(f"{name}-{seed}: ")


def test_all_hostile_images_together_are_counted_and_none_is_forgotten(tmp_path: Path) -> None:
    pictures = []
    for case, data in REFUSED.items():
        (tmp_path / f"{case}.png").write_bytes(data)
        pictures.append(Picture(str(tmp_path / f"{case}.png")))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    pictures += [Picture(str(tmp_path / name)) for name in ("pipe.png", "folder.png", "loop.png", "absent.png")]
    with watched(tmp_path):
        bad = verify(pictures, tmp_path / "cache", OnBad.skip)
        with pytest.raises(DataError, match=f"bad records and images: {len(pictures)}"):
            verify(pictures, tmp_path / "cache", OnBad.fail)
    assert [picture for picture, _ in bad] == pictures
