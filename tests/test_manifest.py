"""Annotation files are read strictly: every bad record is named with file, line, key, what was given, what is legal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lab.config import OnBad
from lab.data import manifest
from lab.data.faults import BadRecord, raise_or_skip
from lab.errors import DataError


def parse(row: manifest.Row) -> tuple[str, bool]:
    return row.text("id"), row.label("label")


def read(path: Path) -> tuple[list[tuple[str, bool]], list[BadRecord]]:
    return manifest.read(path, parse, lambda record: record[0])


def good(k: int) -> str:
    return json.dumps({"id": f"a{k}", "label": "True"})


def faults_of(tmp_path: Path, *lines: str | bytes) -> list[str]:
    path = tmp_path / "m.json"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return [str(fault) for fault in read(path)[1]]


@pytest.mark.parametrize("value", ["True", "true", "TRUE", True])
def test_true_is_one_of_four(value: Any) -> None:
    assert manifest.label(value) is True


@pytest.mark.parametrize("value", ["False", "false", "FALSE", False])
def test_false_is_one_of_four(value: Any) -> None:
    assert manifest.label(value) is False


@pytest.mark.parametrize(
    "value", ["", "yes", "tRUE", " True", "0", "1", 0, 1, 1.0, 0.0, None, [], {}, ["True"], "None"]
)
def test_nothing_else_is_a_label(value: Any) -> None:
    with pytest.raises(ValueError, match="legal"):
        manifest.label(value)


def test_json_lines_and_a_json_list_give_the_same(tmp_path: Path) -> None:
    (tmp_path / "lines.json").write_text("\n".join(map(good, range(3))) + "\n\n")
    (tmp_path / "list.json").write_text(" \n[" + ",\n".join(map(good, range(3))) + "]\n")
    expected = [("a0", True), ("a1", True), ("a2", True)]
    assert read(tmp_path / "lines.json") == (expected, [])
    assert read(tmp_path / "list.json") == (expected, [])
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "none.json").write_text("[ ]")
    assert read(tmp_path / "empty.json") == read(tmp_path / "none.json") == ([], [])


def test_a_fault_names_file_line_key_given_and_legal(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, good(0), '{"id": "a1", "label": "yes"}')
    assert fault.startswith(f"{tmp_path}/m.json:2: key 'label': 'yes' is given; legal: 'True', 'true'")
    (fault,) = faults_of(tmp_path, good(0), "", '{"id": "a1", "lable": "True"}')
    assert fault == f"{tmp_path}/m.json:3: key 'label' is missing; the record has ['id', 'lable']"


def test_an_element_of_a_list_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('[\n{"id": "a0", "label": true},\n{"id": "a1",\n "label": 1},\n3]')
    records, faults = read(path)
    assert records == [("a0", True)]
    assert [fault.source for fault in faults] == [f"{path}:3", f"{path}:5"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"id": "a\xff", "label": true}', "not UTF-8"),
        ('{"id": "a1", "label": true, "x": NaN}', "NaN is not JSON"),
        ('{"id": "a1", "label": true, "x": -Infinity}', "-Infinity is not JSON"),
        ('{"id": "a1", "label": true, "x": 1e999}', "beyond the range"),
        ('{"id": "a1", "label": true, "x": ' + "9" * 5000 + "}", "not a JSON object"),
        ('{"id": "a1", "id": "a2", "label": true}', "'id' is given twice"),
        ('{"id": "a0", "label": true}', "'a0' is given a second time; first in"),
        ('{"id": "a1", "label": true', "not a JSON object"),
        ('{"id": "a1", "label": true} x', "not a JSON object"),
        ("7", "a JSON object {...} is legal"),
        ("[" * 100000, "not a JSON object"),
        ('{"a":' * 50000 + "1" + "}" * 50000, "not a JSON object"),
        ('{"id": "\\ud800", "label": true}', "lone surrogate"),
        ('{"id": "  ", "label": true}', "not blank"),
        ('{"id": 3, "label": true}', "3 is given; a string is legal"),
        ('{"id": null, "label": true}', "None is given; a string is legal"),
        ("\ufeff" + '{"id": "a1", "label": true}', "not a JSON object"),
        ('{"id": "' + "x" * manifest.MAX_RECORD + '", "label": true}', "longer than 1048576 bytes"),
    ],
)
def test_bad_lines_are_faults_and_their_neighbours_are_read(tmp_path: Path, line: str | bytes, says: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(
        b"\n".join([good(0).encode(), line if isinstance(line, bytes) else line.encode(), good(9).encode()])
    )
    records, faults = read(path)
    assert [name for name, _ in records] == ["a0", "a9"]
    assert len(faults) == 1
    assert faults[0].source == f"{path}:2"
    assert says in str(faults[0])
    assert len(str(faults[0])) < 600


@pytest.mark.parametrize("text", ['[{"id": "a", "label": true}', "[1 2]", '[{"id": }]', "[] []", "[" * 100000, "[1,]"])
def test_a_broken_list_is_an_error_as_a_whole(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"m\.json"):
        read(path)


def test_a_list_that_is_not_utf8_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(b'[\n"\xff"]')
    with pytest.raises(DataError, match=r"m\.json:2: not UTF-8"):
        read(path)
    monkeypatch.setattr(manifest, "MAX_LIST_BYTES", 3)
    with pytest.raises(DataError, match="longer than the 3 bytes"):
        read(path)
    monkeypatch.undo()
    monkeypatch.setattr(manifest, "MAX_RECORD", 10)
    path.write_text(f"[{good(0)}, 1]")
    assert "longer than 10 characters" in str(read(path)[1][0])


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", "."):
        with pytest.raises(DataError, match="manifest"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "relative",
    [
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "",
        ".",
        "..",
        "a\\b",
        "C:x",
        "a\0b",
        "x" * 5000,
        "out/x",
        "link.png",
        "loop/x",
    ],
)
def test_no_path_leaves_the_root(tmp_path: Path, relative: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_text("secret")
    (tmp_path / "root" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "link.png").symlink_to("../secret/x")
    (tmp_path / "root" / "loop").symlink_to("loop")
    with pytest.raises(BadRecord, match=r"^m:1: path "):
        manifest.Root(tmp_path / "root").file(relative, "m:1")


def test_paths_inside_are_fine_also_through_links_inside(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("x")
    (tmp_path / "link").symlink_to("real")
    root = manifest.Root(tmp_path)
    assert root.file("link/x", "m:1") == tmp_path.resolve() / "link" / "x"
    assert root.file("not/there.png", "m:1") == tmp_path.resolve() / "not" / "there.png"


def test_all_faults_end_in_one_error_or_in_the_list_of_skipped() -> None:
    faults = [BadRecord(f"m:{k}", "bad") for k in range(9)]
    with pytest.raises(
        DataError, match=r"(?s)^data\.on_bad=fail: bad records and images: 9\..*m:0: bad.*m:4: bad\n  and 4 more"
    ):
        raise_or_skip(faults, OnBad.fail)
    assert raise_or_skip([], OnBad.fail) == ()
    assert [(skipped.source, skipped.reason) for skipped in raise_or_skip(faults, OnBad.skip)] == [
        (f"m:{k}", "bad") for k in range(9)
    ]


def test_numbers_are_whole_and_not_negative() -> None:
    row = manifest.Row("m:1", {"a": 3, "b": "17", "c": True, "d": -1, "e": "x", "f": 1.0})
    assert (row.number("a"), row.number("b")) == (3, 17)
    for key in "cdefg":
        with pytest.raises(BadRecord, match="a whole number from 0"):
            row.number(key)
