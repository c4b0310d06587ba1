"""Any bytes in a manifest, a table or an image: a sentence with the place, or the right result; never a traceback, never another n."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import official_rules as official
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_intact import PLAIN, WAYS, made
from test_screening import PROMPT, png, sample

from lab.config import DataDial, OnBad
from lab.data import fingerprint, load, manifest, records_file
from lab.data.faults import BadRecord
from lab.data.files import read_text
from lab.data.images import decode
from lab.errors import LabError
from lab.model.encoding import Encoder
from lab.prompt import parse_template
from lab.records import Picture, Splits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

SPECIAL = ("<|im_end|>", "<|image_pad|>", "<|endoftext|>", "\ud800", "\0", "\ufeff", "\u2028", "\x85", "{statement}", "%s", "e\u0301")
TEXTS = st.one_of(st.text(), st.sampled_from(SPECIAL), st.text(max_size=3).map(lambda text: text * 3000))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.integers(10**30, 10**40), st.floats(), TEXTS)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5)
NAMES = st.sampled_from([f"dev-{k}-0-0" for k in range(3)] + ["dev-0-1-0", "train-0-0-0", "dev-1-2", "", "dev-00-0-0"])
LABELS = st.sampled_from(["True", "False", "true", "false", True, False])
RECORDS = st.fixed_dictionaries(
    {"identifier": st.one_of(NAMES, NAMES, VALUES), "sentence": st.one_of(TEXTS, VALUES), "label": st.one_of(LABELS, LABELS, VALUES)},
    optional={"directory": VALUES, "left_url": VALUES, "right_url": VALUES},
)  # fmt: skip
LINES = st.one_of(RECORDS.map(json.dumps).map(str.encode), st.binary(max_size=40), st.integers(1, 30_000).map(lambda deep: b"[" * deep))


def parse(row: manifest.Row) -> tuple[str, str, bool]:
    return row.text("identifier"), row.text("sentence"), row.label("label")


@settings(deadline=None)
@given(st.lists(LINES, max_size=5), st.booleans())
def test_every_line_of_a_manifest_is_a_record_or_a_fault_with_its_place(lines: list[bytes], marked: bool) -> None:
    data = (b"\xef\xbb\xbf" if marked else b"") + b"\n".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dev.json"
        path.write_bytes(data)
        try:
            records, faults = manifest.read(path, parse, lambda record: record[0])
        except LabError as error:
            assert str(error).startswith(f"{path}:")
            return
    assert all(str(fault).startswith(f"{path}:") and fault.reason for fault in faults)
    solid = [line for line in b"\n".join(lines).split(b"\n") if line.strip()]
    if not data[3 * marked :].lstrip(b" \t\r\n").startswith(b"["):
        assert len(records) + len(faults) == len(solid)
    for record in records:
        assert record[1].strip() and record[1].encode() and type(record[2]) is bool
    assert len({record[0] for record in records}) == len(records)


@settings(deadline=None)
@given(st.lists(RECORDS, min_size=1, max_size=5), st.sampled_from(["lines", "list"]), st.sampled_from(list(OnBad)))
def test_nlvr2_gives_all_records_or_says_which_it_does_not(rows: list[dict], form: str, on_bad: OnBad) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        for k in range(3):
            for side in (0, 1):
                (root / "images" / f"dev-{k}-0-img{side}.png").write_bytes(png(4, 4))
        text = json.dumps(rows) if form == "list" else "\n".join(map(json.dumps, rows))
        (root / "dev.json").write_text(text)
        dial = DataDial(name="nlvr2", root=str(root), on_bad=on_bad)
        try:
            splits = load(dial, root / "cache")
        except LabError as error:
            assert folder in str(error) or "data=nlvr2" in str(error)
            return
    assert len(splits.dev) + len(splits.skipped) == len(rows)
    assert on_bad is OnBad.skip or not splits.skipped
    asked = {(row["identifier"], row["sentence"]) for row in rows if isinstance(row["sentence"], str) and isinstance(row["identifier"], str)}
    assert {(sample.sample_id, sample.text) for sample in map(splits.dev.index, range(len(splits.dev)))} <= asked


CELLS = st.one_of(st.just(png(4, 4)), st.none(), st.binary(max_size=30), st.integers(0, 60).map(lambda cut: png(4, 4)[:cut]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.one_of(st.integers(0, 3), st.integers(-9, -1)), st.text(), CELLS, CELLS), min_size=1, max_size=4))
def test_winoground_keeps_whole_examples_and_counts_the_rest(rows: list[tuple]) -> None:
    assume(all(character < "\ud800" or character > "\udfff" for row in rows for character in row[1]))
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    numbers, captions, *images = zip(*rows, strict=True)
    columns = {"id": pa.array(numbers, pa.int32()), "caption_0": pa.array(captions, pa.string()), "caption_1": pa.array(captions, pa.string())}
    columns |= {f"image_{k}": pa.array([{"bytes": data, "path": None} for data in images[k]], cell) for k in (0, 1)}
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(columns), f"{folder}/test.parquet")
        try:
            splits = load(DataDial(name="winoground", root=folder, on_bad=OnBad.skip), Path(folder) / "cache")
        except LabError as error:
            assert "winoground" in str(error) or folder in str(error)
            return
    good = [row for row in rows if row[0] >= 0 and row[1].strip() and row[2] == row[3] == png(4, 4)]
    assert len(splits.dev) % 4 == 0 and len(splits.dev) <= 4 * len(good)
    assert len(splits.dev) // 4 + len({record.source.rpartition("#")[2].partition("/")[0] for record in splits.skipped}) == len(rows)


def rows_of_skipped(splits: Splits) -> set[str]:
    """The numbers of the table's rows that were skipped, whatever in them was bad."""
    return {record.source.rpartition("#")[2].partition("/")[0] for record in splits.skipped}


@settings(deadline=None)
@given(
    st.lists(st.tuples(NAMES, st.one_of(st.text(), st.none()), st.sampled_from([True, False, None]), CELLS, CELLS), min_size=1, max_size=4),
    st.sampled_from([pa.bool_(), pa.string()]),
    st.sampled_from(list(OnBad)),
)
def test_a_mirror_of_nlvr2_gives_all_rows_or_says_which_it_does_not(rows: list[tuple], labels: pa.DataType, on_bad: OnBad) -> None:
    assume(all(character < "\ud800" or character > "\udfff" for row in rows for character in row[1] or ""))
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    names, sentences, answers, *images = zip(*rows, strict=True)
    told = [answer if answer is None or labels == pa.bool_() else str(answer) for answer in answers]
    columns = {"identifier": pa.array(names, pa.string()), "sentence": pa.array(sentences, pa.string()), "label": pa.array(told, labels)}
    columns |= {f"image{k}": pa.array([{"bytes": data, "path": None} for data in images[k]], cell) for k in (0, 1)}
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(columns), f"{folder}/validation.parquet")
        try:
            splits = load(DataDial(name="nlvr2", source="pingzhili", root=folder, on_bad=on_bad), Path(folder) / "cache")
        except LabError as error:
            assert folder in str(error) or "data=nlvr2" in str(error) or "data.source=" in str(error)
            return
    assert len(splits.dev) + len(rows_of_skipped(splits)) == len(rows)
    assert on_bad is OnBad.skip or not splits.skipped
    wanted = {(name, sentence, answer) for name, sentence, answer in zip(names, sentences, answers, strict=True)}
    assert {(one.sample_id, one.text, one.answer.right == 0) for one in map(splits.dev.index, range(len(splits.dev)))} <= wanted


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> Path:
    """A folder of NLVR: two statements in each of three directories of dev, one with a missing and one with a broken image."""
    root = tmp_path_factory.mktemp("nlvr")
    for directory, number, which, k in itertools.product(range(3), range(3), range(2), range(6)):
        path = root / "dev" / "images" / str(directory) / f"dev-{number}-{which}-{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(4, 4)[: 40 if (directory, number, which, k) == (1, 1, 0, 3) else None])
    (root / "dev" / "images" / "2" / "dev-2-1-5.png").unlink()
    return root


NUMBERS = st.sampled_from([f"{number}-{which}" for number in range(3) for which in range(2)] + ["0-2", "", "dev-0-0", "00-0", "9" * 12 + "-0"])
STATEMENTS = st.fixed_dictionaries(
    {"identifier": st.one_of(NUMBERS, NUMBERS, VALUES), "sentence": st.one_of(TEXTS, VALUES), "label": st.one_of(LABELS, LABELS, VALUES),
     "directory": st.one_of(st.sampled_from("0123"), st.sampled_from("012"), VALUES)},
)  # fmt: skip


@settings(deadline=None)
@given(rows=st.lists(STATEMENTS, min_size=1, max_size=6), form=st.sampled_from(["lines", "list"]), on_bad=st.sampled_from(list(OnBad)))
def test_nlvr_gives_six_samples_a_statement_or_says_which_it_does_not(boxes: Path, rows: list[dict], form: str, on_bad: OnBad) -> None:
    (boxes / "dev" / "dev.json").write_text(json.dumps(rows) if form == "list" else "\n".join(map(json.dumps, rows)))
    try:
        splits = load(DataDial(name="nlvr", root=str(boxes), on_bad=on_bad), boxes / "cache")
    except LabError as error:
        assert str(boxes) in str(error) or "data=nlvr" in str(error)
        return
    samples = [sample for part in (splits.train, splits.minival, splits.dev) for sample in part]
    images = sum("is left out" in record.reason for record in splits.skipped)
    assert len(samples) + images + 6 * (len(splits.skipped) - images) == 6 * len(rows)
    assert on_bad is OnBad.skip or not splits.skipped
    asked = {(f"dev-{row['identifier']}", row["sentence"]) for row in rows if isinstance(row["sentence"], str) and isinstance(row["identifier"], str)}
    assert {(sample.sample_id.rpartition("-")[0], sample.text) for sample in samples} <= asked


SIZES = st.one_of(st.sampled_from([4, 8, 12]), st.sampled_from([4, 8, 12]), st.integers(-5, 13))


@settings(deadline=None)
@given(st.lists(SIZES, min_size=3, max_size=3), st.sampled_from(["easy", "medium", "hard", None, "Hard", ""]), st.integers(-1, 2**64))
def test_pairs_are_as_many_as_asked_and_balanced_or_a_key_is_named(sizes: list[int], difficulty: str | None, seed: int) -> None:
    parts = dict(zip(("train", "minival", "dev"), sizes, strict=True))
    dial = DataDial(name="pairs", difficulty=difficulty, seed=seed, **{f"num_{part}": size for part, size in parts.items()})
    with tempfile.TemporaryDirectory() as folder:
        try:
            splits = load(dial, Path(folder))
        except LabError as error:
            assert str(error).startswith("data.")
            return
        samples = {part: list(getattr(splits, part)) for part in parts}
    assert {part: len(found) for part, found in samples.items()} == parts and not splits.skipped
    for found in samples.values():
        assert set(Counter(sample.question_group for sample in found).values()) == {4}
        assert set(Counter(sample.question_group for sample in found if sample.answer.right == 0).values()) == {2}
        assert all(np.asarray(decode(picture)).any() for picture in found[0].images)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of pairs that were drawn once, and what they are."""
    folder = tmp_path_factory.mktemp("pairs")
    return folder, parts_of(load(DRAWN, folder))


def parts_of(splits: Splits) -> list[str]:
    return [fingerprint(part) for part in (splits.train, splits.minival, splits.dev)]


DRAWN = DataDial(name="pairs", num_train=4, num_minival=4, num_dev=4)
DAMAGE = {"gone": None, "empty": b"", "rubbish": b"ARROW1\0\0 not a table", "cut": b"..."}


@settings(deadline=None)
@given(st.sampled_from(sorted(DAMAGE)), st.floats(0, 1, exclude_max=True), st.integers(0, 6))
def test_pairs_on_disk_that_are_damaged_are_drawn_again(pairs: tuple[Path, list[str]], kind: str, share: float, number: int) -> None:
    whole, expected = pairs
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(whole, folder, dirs_exist_ok=True)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        path = files[number % len(files)]
        data = path.read_bytes()[: int(share * path.stat().st_size)] if kind == "cut" else DAMAGE[kind]
        path.unlink() if data is None else path.write_bytes(data)
        again = load(DRAWN, Path(folder))
        assert parts_of(again) == expected and [len(part) for part in (again.train, again.minival, again.dev)] == [4, 4, 4]
        assert all(np.asarray(decode(picture)).any() for sample in again.train for picture in sample.images)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    import checkpoints

    from lab import model

    return Encoder(model.load(checkpoints.save("qwen2_vl", tmp_path_factory.mktemp("qwen2_vl"))), PROMPT)


@settings(deadline=None)
@given(st.one_of(TEXTS, st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=5))).map("".join)))
def test_a_statement_becomes_its_own_words_or_a_fault(encoder: Encoder, text: str) -> None:
    assume(text.strip() and not any("\ud800" <= character <= "\udfff" for character in text))
    try:
        found = encoder.text(sample(text)).prompt_ids.tolist()
    except BadRecord as fault:
        assert str(fault).startswith("sample s: ")
        return
    chat = encoder.architecture.frame(encoder.processor, encoder.framed(sample(text))[0], False)[0]
    assert found == encoder.tokenizer(chat, add_special_tokens=False)["input_ids"]
    assert found.count(encoder.image_id) == 2 and found.count(encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


# ---- images ----------------------------------------------------------------------------------------------------

WHOLE = {way: made(way, kind, (64, 48)) for way in (*WAYS, *PLAIN) for kind in ("noise",)}


def outcome(data: bytes) -> np.ndarray | None:
    """The picture, or None where it is refused by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(decode(Picture("it", data)))
        except LabError as error:
            assert str(error).startswith("it: ") and len(str(error)) > 10
            return None


@settings(deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1, exclude_max=True))
def test_a_truncated_picture_is_refused_or_has_lost_nothing(way: str, share: float) -> None:
    data = WHOLE[way]
    found = outcome(data[: int(share * len(data))])
    assert found is None or (np.array_equal(found, outcome(data)) and share > 0.9)


@settings(deadline=None)
@given(st.sampled_from(sorted(WAYS)), st.floats(0.25, 0.75), st.floats(0.2, 0.6), st.booleans())
def test_a_zeroed_stretch_is_refused(way: str, start: float, length: float, to_the_end: bool) -> None:
    data = WHOLE[way]
    first = int(start * len(data))
    stop = len(data) if to_the_end else min(len(data) - 16, first + int(length * len(data)))
    found = outcome(data[:first] + bytes(stop - first) + data[stop:])
    assert found is None


@settings(deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_a_flipped_bit_gives_a_picture_or_a_sentence(way: str, draw: Any) -> None:
    """At the header, or anywhere; where checksums cover every byte, a picture is the same picture."""
    data = bytearray(WHOLE[way])
    at = draw.draw(st.one_of(st.integers(0, 200), st.integers(0, len(data) - 1)).filter(lambda at: at < len(data)))
    data[at] ^= 1 << draw.draw(st.integers(0, 7))
    found, whole = outcome(bytes(data)), outcome(WHOLE[way])
    assert whole is not None
    assert found is None or (found.ndim == 3 and found.shape[2] == 3 and min(found.shape) > 0)
    if found is not None and way.startswith("png"):
        assert np.array_equal(found, whole)


MAGIC = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF\x40\0\0\0WEBPVP8L"]


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(MAGIC))
def test_rubbish_is_refused(data: bytes, magic: bytes) -> None:
    found = outcome(magic + data)
    assert found is None or found.ndim == 3


# ---- byte-order marks ------------------------------------------------------------------------------------------

READERS = {
    "manifest, lines": ('{"identifier": "a", "sentence": "b", "label": true}\n', lambda path: manifest.read(path, parse, str)[0]),
    "manifest, list": ('[{"identifier": "a", "sentence": "b", "label": true}]', lambda path: manifest.read(path, parse, str)[0]),
    "labels": ('{"identifier": "dev-1-0-0", "label": "True"}\n', official.nlvr2_labels),
    "template": ("Say: {statement}\n", lambda path: parse_template(PROMPT.__class__(**{**PROMPT.__dict__, "template_file": str(path)}))[0]),
    "text": ("a\nb", read_text),
    "questions": ("image,question,answer\na,b,c\n", lambda path: list(records_file.delimited(path, ","))),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_text_format_is_read_with_a_byte_order_mark_and_names_another_encoding(reader: str, tmp_path: Path) -> None:
    text, read = READERS[reader]
    path = tmp_path / "file"
    path.write_bytes(text.encode())
    plain = read(path)
    path.write_bytes(text.encode("utf-8-sig"))
    assert read(path) == plain
    for encoding in ("utf-16", "utf-32"):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(ValueError, match=encoding.upper()):
            read(path)
