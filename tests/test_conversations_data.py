"""Manifests of conversations: forms read alike, every broken record told with its place, splits by media, rows on demand, any order resumed."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import manifests
import pytest
from conversations import PROMPT
from hypothesis import given
from hypothesis import strategies as st
from manifests import BROKEN, YES, as_messages, gpt, human, picture, records, said, write

from lab import data, model
from lab.config import DataDial, OnBad, identity
from lab.data import check
from lab.data.conversation_file import index as indexing
from lab.data.conversation_file import json_list, reading
from lab.data.conversation_file.media import Fault
from lab.data.conversation_file.record import Form
from lab.data.sets import conversations, drawn_conversations
from lab.data.splits import PARTS
from lab.errors import ConfigError, DataError
from lab.freezing.files import sources_of
from lab.model.encoding import Encoder
from lab.records import Clip, Picture, Sample, Splits, Text
from lab.training import examples as looking
from lab.training.datamodule import DataModule
from lab.training.examples import Examples
from lab.training.ordering import realised
from lab.training.screening import screen


def dial(*sources: Any, **keys: Any) -> DataDial:
    return DataDial(name="conversations", sources=[str(each) if isinstance(each, Path) else each for each in sources], **keys)


def load(tmp_path: Path, *sources: Any, **keys: Any) -> Splits:
    return data.load(dial(*sources, **keys), tmp_path / "cache")


def every(splits: Splits) -> list[Sample]:
    return [split[i] for split in (splits.train, splits.minival, splits.dev) for i in range(len(split))]


def bare(splits: Splits) -> list[tuple]:
    """All samples without the names of their groups and pictures, which their file decides."""
    return sorted((one.sample_id, one.text, one.answer.key, str(one.turns), len(one.images)) for one in every(splits))


def test_every_format_and_form_gives_the_same_conversations(tmp_path) -> None:
    rows = records(tmp_path, 30)
    expected = bare(load(tmp_path, write(tmp_path / "a.json", rows)))
    assert bare(load(tmp_path, write(tmp_path / "a.jsonl", rows))) == expected
    assert bare(load(tmp_path, write(tmp_path / "m.jsonl", [as_messages(row) for row in rows]))) == expected
    assert bare(load(tmp_path, write(tmp_path / "t.parquet", rows))) == expected
    (tmp_path / "pretty.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False), encoding="utf-8")
    assert bare(load(tmp_path, tmp_path / "pretty.json")) == expected


def test_pictures_inside_a_table(tmp_path) -> None:
    rows = [
        {**row, "image": None, "images": [{"bytes": (tmp_path / row["image"]).read_bytes(), "path": None}] if "image" in row else []}
        for row in records(tmp_path, 12)
    ]
    import datasets

    features = datasets.Features({
        "id": datasets.Value("string"), "image": datasets.Value("string"), "images": datasets.List(datasets.Image()),
        "conversations": datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")}),
    })  # fmt: skip
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "t.parquet")
    splits = load(tmp_path, tmp_path / "t.parquet")
    shown = [one for sample in every(splits) for one in sample.images]
    assert len(shown) == 8 and all(isinstance(one, Picture) and one.data for one in shown)


def test_a_record_keeps_its_turns_and_the_places_of_its_media(tmp_path) -> None:
    left, right = picture(tmp_path, "l.png", 1), picture(tmp_path, "r.png", 2)
    turns = [{"from": "system", "value": "Be brief."}, human("Is <image>\nleft of <image>?"), gpt("yes"), human("Sure?"), gpt("very")]
    rows = [{"id": 7, "images": [left, right], "conversations": turns}, *records(tmp_path, 5)]
    path = write(tmp_path / "a.jsonl", rows)
    (sample,) = (one for one in every(load(tmp_path, path)) if one.sample_id == "7")
    assert [(turn.role, turn.parts, turn.learned) for turn in sample.turns] == [
        ("system", ("Be brief.",), False),
        ("user", ("Is ", 0, "\nleft of ", 1, "?"), False),
        ("assistant", ("yes",), True),
        ("user", ("Sure?",), False),
    ]
    assert sample.text == "Sure?" and sample.answer == Text(("very",))
    assert [one.source for one in sample.images] == [str(tmp_path / left), str(tmp_path / right)]
    assert not any(turn.learned for one in every(load(tmp_path, path, loss_on="last")) for turn in one.turns)
    swapped = write(tmp_path / "b.jsonl", [{**rows[0], "images": [right, left]}, *rows[1:]])
    (other,) = (one for one in every(load(tmp_path, swapped)) if one.sample_id == "7")
    assert other.images == sample.images[::-1] and other.turns == sample.turns


def test_every_answer_may_be_a_sample_of_its_own(tmp_path, monkeypatch) -> None:
    """Of train, with the pictures shown until then; what is asked of dev stays the last answer. Alike where rows are many."""
    left, right = picture(tmp_path, "l.png", 1), picture(tmp_path, "r.png", 2)
    shown = said(human("Is <image> red?"), gpt("no"), human("And <image>?"), gpt("yes"), human("Sure?"), gpt("very"), id="s", images=[left, right])
    path = write(tmp_path / "a.jsonl", [{**row, "part": "dev" if i > 6 else "train"} for i, row in enumerate([shown, *records(tmp_path, 8)])])
    keys: dict[str, Any] = {"columns": {"split": "part"}, "num_minival": 0, "loss_on": "each"}
    splits = load(tmp_path, path, **keys)
    first, second, third, *others = (splits.train[i] for i in range(len(splits.train)))
    assert [one.sample_id for one in (first, second, third)] == [f"s (answer {i} of 3)" for i in (1, 2, 3)]
    assert [one.answer.text for one in (first, second, third)] == ["no", "yes", "very"]
    assert [[Path(each.source).name for each in one.images] for one in (first, second, third)] == [["l.png"], ["l.png", "r.png"], ["l.png", "r.png"]]
    assert [len(one.turns) for one in (first, second, third)] == [1, 3, 5] and not any(turn.learned for turn in third.turns)
    assert len(others) == 1 + 2 + 3 + 1 + 2 + 3 and len(splits.dev) == 2
    monkeypatch.setattr(conversations, "WHOLE", 5)
    many = load(tmp_path, path, **keys)
    bare_ones = [(one.sample_id, one.text, one.answer, one.turns, len(one.images)) for one in map(splits.train.index, range(len(splits.train)))]
    assert [(one.sample_id, one.text, one.answer, one.turns, len(one.images)) for one in map(many.train.index, range(len(many.train)))] == bare_ones
    assert data.fingerprint(many.train) != data.fingerprint(load(tmp_path, path, **{**keys, "loss_on": "last"}).train)
    assert many.sources[0].size == len(splits.train) == splits.sources[0].size


def test_a_clip_is_a_file_or_frames_with_their_times(tmp_path) -> None:
    drawn_conversations.write(tmp_path / "drawn", 0, {"train": 10, "minival": 0, "dev": 10}, clips=True)
    frames = {"frames": [picture(tmp_path / "drawn", f"f{i}.png", 7 * i) for i in range(4)], "fps": 2}
    rows = json.loads((tmp_path / "drawn" / drawn_conversations.MANIFEST).read_text())
    shape = {"frames": [picture(tmp_path / "drawn", f"s{i}.png", 0) for i in range(4)], "fps": 2}
    rows += [said(human("<video> Which way?"), YES, id="own", video=shape), said(human("a"), YES, id="none")]
    clips = [one for sample in every(load(tmp_path, write(tmp_path / "drawn" / "all.json", rows))) for one in sample.images if isinstance(one, Clip)]
    assert len(clips) == 5 and all(one.footage is not None for one in clips)
    assert [one.times for one in clips if one.frames] == [(0.0, 0.5, 1.0, 1.5)]
    changing = write(tmp_path / "drawn" / "bad.json", [*rows[:4], said(human("<video> Which way?"), YES, video=frames)])
    with pytest.raises(DataError, match="its frames change from"):
        load(tmp_path, changing)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_told_with_its_place_and_left_out_where_asked(name: str, tmp_path) -> None:
    manifests.broken_media(tmp_path)
    record, sentence = BROKEN[name]
    path = write(tmp_path / "m.jsonl", [*records(tmp_path, 6), record, said(human("a"), YES, id="last")])
    with pytest.raises(DataError) as error:
        load(tmp_path, path)
    assert sentence in str(error.value) and f"{path}:7: " in str(error.value)
    if isinstance(record, dict) and isinstance(record["id"], str):
        assert f"{path}:7: record 'x': " in str(error.value)
    splits = load(tmp_path, path, on_bad=OnBad.skip)
    assert [each.source for each in splits.skipped] == [f"{path}:7"] and sentence in splits.skipped[0].reason
    assert len(every(splits)) == 7


def test_counts_are_right_over_all_that_is_broken(tmp_path, capsys, monkeypatch, quiet_root_logger) -> None:
    manifests.broken_media(tmp_path)
    rows = [*(record for record, _ in BROKEN.values()), *records(tmp_path, 9)]
    path = write(tmp_path / "m.jsonl", rows)
    splits = load(tmp_path, path, on_bad=OnBad.skip)
    assert (len(splits.skipped), len(every(splits))) == (len(BROKEN), 9)
    assert sorted(each.source for each in splits.skipped) == sorted(f"{path}:{line}" for line in range(1, len(BROKEN) + 1))

    def checked(*words: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["check", "data=conversations", f"data.sources=[{path}]", "--cache-dir", str(tmp_path / "cache"), *words])
        code = check.main()
        return code, capsys.readouterr().out.splitlines()

    code, printed = checked()
    problems = [line for line in printed if line.startswith("problem: ")]
    assert code == 1 and len(problems) == len(BROKEN) and printed[-1].startswith(f"it cannot train: {len(BROKEN)} bad records.")
    assert all(any(sentence in line for line in problems) for _, sentence in BROKEN.values())
    code, printed = checked("data.on_bad=skip")
    assert code == 0 and printed[-1] == f"it can train, without {len(BROKEN)} bad records."
    assert checked("lora.r=8", "model=qwen2_vl_2b")[1][0] == "keys that say nothing of data, and are not read here: lora.r, model"
    assert "Media of 1 of" in checked("--sample", "1", f"data.root={tmp_path}")[1][-1]


def test_a_manifest_that_is_none_is_told(tmp_path) -> None:
    good = json.dumps(records(tmp_path, 1)[0])
    for text, sentence in {
        f"[{good}, ": "1: the list is not valid JSON from here on",
        f"[{good} {good}]": "after this element of the list ',' or ']' is legal",
        f"[{good}] x": "the JSON list is followed by 'x'",
        f"[{good}, nonsense]": "the list is not valid JSON from here on",
        f"[{good},\n]": "2: the list is not valid JSON from here on", f"[, {good}]": "1: the list is not valid JSON from here on",
        f"[{good}": "1: after this element of the list ',' or ']' is legal",
        "[" + '{"id": ' * 2000 + "1" + "}" * 2000 + "]": "the list is not valid JSON from here on (maximum recursion depth",
    }.items():
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(DataError) as error:
            load(tmp_path, tmp_path / "m.json")
        assert sentence in str(error.value)
    with pytest.raises(DataError, match="there is no such file"):
        load(tmp_path, tmp_path / "none.json")
    with pytest.raises(ConfigError, match="legal endings are"):
        load(tmp_path, write(tmp_path / "m.csv", []))


TEXTS = st.sampled_from(["a", " ", "", "<image>", "<image> b <image>", "<video>", "ü", "x <b>", 3, None])
TURN = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "system", "tool", 1]), "value": TEXTS})
TURNS = st.lists(TURN | st.sampled_from(["a", [], None]), max_size=4)
FILES = st.sampled_from(["a.png", "", " ", None, 3, ["a.png"], ["a.png", "b.png"], [], "http://a/b.png", {"path": "a"}])


@given(
    TURNS | st.sampled_from(["a", None]), FILES, st.sampled_from(["image", "images", "video", "img", "note"]),
    st.sampled_from(["i", 3, "", None, [1], "ü"]), st.booleans(),
)  # fmt: skip
def test_what_the_fast_reader_takes_the_careful_one_takes_alike(turns, files, key, identifier, messages) -> None:
    form, record = Form({}), {"id": identifier, "conversations": turns, key: files}
    if messages and isinstance(turns, list):
        record["messages"] = [{"role": one["from"], "content": one["value"]} if isinstance(one, dict) else one for one in record.pop("conversations")]
    fast = form.plain(record)
    try:
        careful = form.parse(record)
    except Fault:
        assert fast is None
        return
    if fast is not None:
        answers = sum(role == "assistant" for role, _ in careful.turns)
        assert fast == (careful.name, [one.file for one in careful.media], answers)


def test_no_picture_is_on_two_sides(tmp_path) -> None:
    """By its pixels, whatever it is called, and through conversations that show several."""
    rows = records(tmp_path, 60)
    for i in range(0, 20, 2):
        copied = picture(tmp_path, f"copy/{i}.png", i)
        rows.append(said(human("<image> Again?"), YES, id=f"copy{i}", image=copied))
        rows.append(said(human("<image> or <image>?"), YES, id=f"both{i}", images=[copied, picture(tmp_path, f"new/{i}.png", 200 + i)]))
    path = write(tmp_path / "a.jsonl", rows)
    splits = load(tmp_path, path, num_dev=13, num_minival=7)
    assert [len(part) for part in (splits.train, splits.minival, splits.dev)] == [60, 7, 13]
    sides: dict[bytes, set[str]] = {}
    for part in ("train", "minival", "dev"):
        for sample in (getattr(splits, part)[i] for i in range(len(getattr(splits, part)))):
            for one in sample.images:
                sides.setdefault(decoded(one), set()).add(part)
    assert set(map(len, sides.values())) == {1}
    other = load(tmp_path, path, num_dev=13, num_minival=7, seed=1)
    assert other.dev.sample_ids != splits.dev.sample_ids
    smaller = load(tmp_path, path, num_dev=13, num_minival=7, num_train=20)
    assert set(smaller.train.sample_ids) < set(splits.train.sample_ids) and smaller.dev.sample_ids == splits.dev.sample_ids


def decoded(one: Any) -> bytes:
    from lab.data.images import decode

    image = decode(one)
    return repr(image.size).encode() + image.tobytes()


def test_a_record_says_its_own_part(tmp_path) -> None:
    rows = [{**row, "fold": ("train", "val", "test")[i % 3]} for i, row in enumerate(records(tmp_path, 18))]
    path = write(tmp_path / "a.jsonl", rows)
    splits = load(tmp_path, path, columns={"split": "fold"})
    assert splits.minival.sample_ids == tuple(f"r{i}" for i in range(1, 18, 3)) and len(splits.dev) == 6
    shared = write(tmp_path / "b.jsonl", [*rows, {**rows[1], "id": "leak", "fold": "test"}])
    with pytest.raises(DataError, match="has in several parts: 1 groups"):
        load(tmp_path, shared, columns={"split": "fold"})
    assert len(load(tmp_path, shared, columns={"split": "fold"}, allow_shared_images=True).dev) == 7
    with pytest.raises(DataError, match="key 'fold': None is given; legal: train"):
        load(tmp_path, write(tmp_path / "c.jsonl", [*rows, records(tmp_path, 1)[0]]), columns={"split": "fold"})


def test_several_sources_with_caps_are_told_apart(tmp_path) -> None:
    one, two = write(tmp_path / "one.json", records(tmp_path, 40, "a")), write(tmp_path / "two.jsonl", records(tmp_path, 60, "b"))
    splits = load(tmp_path, {"path": str(one), "cap": 10, "epochs": 2}, two)
    assert [(each.name, each.size, each.epochs) for each in splits.sources] == [("one.json", 10, 2), ("two.jsonl", len(splits.train) - 10, None)]
    assert Counter(splits.train.index(i).subset for i in range(len(splits.train)))["one.json"] == 10
    wrong = {
        "stands twice": [one, one], "has no weight": [{"path": str(one), "weight": 1}, two], "no key of a source": [{"path": str(one), "wieght": 1}],
        "weight is 0": [{"path": str(one), "weight": 0}], "cap is 1.5": [{"path": str(one), "cap": 1.5}], "is legal, as in": [3],
    }  # fmt: skip
    for sentence, sources in wrong.items():
        with pytest.raises(ConfigError, match=sentence):
            sources_of([str(each) if isinstance(each, Path) else each for each in sources])


def test_ids_that_stand_twice_are_told_apart_by_their_place(tmp_path) -> None:
    rows = [*records(tmp_path, 8), said(human("a"), YES, id="r1"), {"conversations": [human("b"), YES]}]
    splits = load(tmp_path, write(tmp_path / "a.jsonl", rows))
    assert {"r1 (a.jsonl:2)", "r1 (a.jsonl:9)", "a.jsonl:10", "r2"} < {one.sample_id for one in every(splits)}
    assert any("ids that stand more than once: 1" in note for note in splits.notes)


def test_many_records_are_the_same_samples_and_none_is_held(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "a.jsonl", records(tmp_path, 90))
    whole = load(tmp_path, path, num_dev=6, num_minival=4)
    monkeypatch.setattr(conversations, "WHOLE", 20)
    many = load(tmp_path, path, num_dev=6, num_minival=4)
    assert bare(many) == bare(whole) and len(data.fingerprint(many.train)) == 64
    assert list(many.train.sample_ids[3:5]) == [many.train[3].sample_id, many.train[4].sample_id]
    assert any("whether their media decode" in note for note in many.notes)
    (tmp_path / "r/1.png").unlink()
    lost = load(tmp_path, write(tmp_path / "b.jsonl", records(tmp_path, 90)[:89]), num_dev=6, num_minival=4)
    assert data.fingerprint(lost.train) != data.fingerprint(many.train)


def test_what_the_check_finds_among_many_training_leaves_out(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(conversations, "WHOLE", 20)
    manifests.broken_media(tmp_path)
    path = write(tmp_path / "a.jsonl", [*records(tmp_path, 60), BROKEN["cut off"][0], BROKEN["missing file"][0]])
    with pytest.raises(DataError, match="lost.png: the file is missing"):
        load(tmp_path, path)
    assert check.act(["data=conversations", f"data.sources=[{path}]"], tmp_path / "cache", None) == 1
    assert "cut.png: the image cannot be decoded" in capsys.readouterr().out
    splits = load(tmp_path, path, on_bad=OnBad.skip)
    assert len(splits.skipped) == 2 and len(every(splits)) == 60
    (tmp_path / "lost.png").write_bytes((tmp_path / "ok.png").read_bytes())
    assert len(load(tmp_path, path, on_bad=OnBad.skip).skipped) == 1, "a mended record is good again"


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_manifest_indexed_in_stretches_is_the_same(ending, tmp_path, monkeypatch) -> None:
    rows = [*records(tmp_path, 40), *(record for record, _ in list(BROKEN.values())[:5]), *records(tmp_path, 9, "z"), "3"]
    path = write(tmp_path / f"a.{ending}", rows)
    path.write_bytes(b"\xef\xbb\xbf\n" + path.read_bytes())
    whole = indexing.open_index(str(path), None, {}, tmp_path / "cache")
    monkeypatch.setattr(reading, "STRETCH", 700)
    monkeypatch.setattr(json_list, "READ", 700)
    assert len(whole.file.stretches()) > 10
    parted = indexing.open_index(str(path), None, {}, tmp_path / "other")
    assert {name: parted.columns[name].tolist() for name in indexing.COLUMNS} == {name: whole.columns[name].tolist() for name in indexing.COLUMNS}
    assert list(map(str, parted.faults)) == list(map(str, whole.faults)) and len(whole.faults) == 6
    first = 2 if ending == "jsonl" else 3
    assert [parted.source(row) for row in (0, 48)] == [f"{path}:{first}", f"{path}:{first + 53}"]
    assert parted.conversation(48) == whole.conversation(48)


JSON_TEXTS = st.text(st.sampled_from('ü{}[],:"\\ \n\x00a'), max_size=6)
JSON_VALUES = st.recursive(
    st.none() | st.floats() | st.integers(-99, 99) | JSON_TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "a"]), inner), max_leaves=8,
)  # fmt: skip


@given(st.lists(JSON_VALUES, max_size=12), st.sampled_from([None, 0, 2]), st.booleans(), st.integers(2, 200))
def test_a_list_is_cut_as_json_reads_it(values, indent, ascii, size) -> None:
    """In pieces of any size, with NaN and all, the places being those of the bytes."""
    data = f" \n{json.dumps(values, indent=indent, ensure_ascii=ascii)} \n".encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "READ", size)
        parts = list(json_list.pieces("m.json", io.BytesIO(data)))
    found = [(start + at, each) for start, end in parts for at, _, each in json_list.elements(data[start:end])]
    assert repr([json.loads(each) for _, each in found]) == repr(values)
    assert all(data[at : at + len(each)] == each for at, each in found)


def test_what_is_wrong_within_an_element_of_a_list_is_said_of_it_alone(tmp_path, monkeypatch) -> None:
    wrong = {
        b'{"id": "x", "conversations": "\xff"}': "not UTF-8", b'{"id": "x", "conversations": "\x00"}': "Invalid control character",
        b'{"id": NaN}': "NaN is not JSON", b'{"id": "x", "id": "x"}': "key 'id' is given twice", b"3": "3 is given; a JSON object",
        b'{"id": "' + b"x" * reading.MAX_RECORD + b'"}': "longer than", b'{"id": 1e999}': "beyond the range",
    }  # fmt: skip
    good = [json.dumps(row).encode() for row in records(tmp_path, 8)]
    path = tmp_path / "m.json"
    path.write_bytes(b"[" + b",\n".join([*good[:7], *wrong, good[7]]) + b"]")
    splits = load(tmp_path, path, on_bad=OnBad.skip)
    assert [each.source for each in splits.skipped] == [f"{path}:{line}" for line in range(8, 15)] and len(every(splits)) == 8
    assert all(sentence in each.reason for each, sentence in zip(splits.skipped, wrong.values(), strict=True))


def test_a_manifest_is_indexed_once_for_its_content(tmp_path, monkeypatch) -> None:
    path = write(tmp_path / "a.jsonl", records(tmp_path, 10))
    load(tmp_path, path)
    monkeypatch.setattr(indexing, "build", lambda *_: pytest.fail("indexed again"))
    path.write_text(path.read_text())
    load(tmp_path, path)
    monkeypatch.undo()
    before = dial(path, sha256="0" * 64)
    with pytest.raises(DataError, match="the manifests have changed"):
        data.load(before, tmp_path / "cache")


def test_a_changed_manifest_is_another_run(tmp_path, composer) -> None:
    path = write(tmp_path / "a.jsonl", records(tmp_path, 10))
    asked = [f"data.sources=[{path}]", f"data.sources=[{{path:{path}}}]"]
    first = {identity(composer("data=conversations", each)) for each in asked}
    assert len(first) == 1, "two spellings are one experiment"
    write(path, records(tmp_path, 11))
    assert identity(composer("data=conversations", asked[0])) not in first
    assert identity(composer("data=conversations", asked[0], "data.loss_on=last")) != identity(composer("data=conversations", asked[0]))


def test_the_drawn_set_is_a_manifest_and_a_smaller_one_is_a_prefix(tmp_path) -> None:
    small = DataDial(name="drawn_conversations", num_train=20, num_minival=5, num_dev=10)
    splits = data.load(small, tmp_path / "cache")
    assert [len(part) for part in (splits.train, splits.minival, splits.dev)] == [20, 5, 10]
    kinds = Counter(len(one.images) for one in every(splits))
    assert kinds[0] and kinds[1] and kinds[2] and max(len(one.turns) for one in every(splits)) >= 3
    larger = data.load(DataDial(name="drawn_conversations", num_train=25, num_minival=5, num_dev=10), tmp_path / "cache")
    assert bare(splits)[:5] == [row for row in bare(larger) if row in bare(splits)][:5] and larger.train.sample_ids[:20] == splits.train.sample_ids
    (manifest,) = (note.partition("lie in ")[2].partition(",")[0] for note in splits.notes if "lie in" in note)
    again = load(tmp_path, manifest, columns={"split": "split"})
    assert bare(again) == bare(splits)


def test_what_a_checkpoint_cannot_take_of_many_is_told_or_left_out(tmp_path, small, monkeypatch) -> None:
    """Of many some are looked at; one that is bad says that all must be, before any is left out."""
    monkeypatch.setattr(conversations, "WHOLE", 12)
    monkeypatch.setattr(looking, "FIRST_LOOK", 4)
    rows = [{**row, "part": ("train", "val", "test")[max(0, i - 19)]} for i, row in enumerate(records(tmp_path, 22))]
    for row in (rows[0], rows[8]):
        row["conversations"][0]["value"] += " <|im_end|>"
    keys: dict[str, Any] = {"columns": {"split": "part"}}
    path = write(tmp_path / "a.jsonl", rows)
    splits = load(tmp_path, path, **keys)
    encoder = Encoder(model.load(small().model), PROMPT, answers=splits.answers)
    with pytest.raises(DataError, match="must not hold special tokens") as error:
        screen(splits, PARTS, encoder, dial(path, **keys))
    assert "r8" not in str(error.value)
    left, examples = screen(splits, PARTS, encoder, dial(path, on_bad=OnBad.skip, **keys))
    assert list(left.train.sample_ids) == [f"r{i}" for i in range(20) if i not in (0, 8)]
    assert left.sources[0].size == examples["train"].epoch_length == 18 and data.fingerprint(left.train) != data.fingerprint(splits.train)
    assert examples["train"].many and examples["train"].texts is None and len(examples["train"].asked) == 64


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on a machine of fewer cores
def test_order_is_of_the_epoch_and_not_of_the_workers_or_of_a_stop(tmp_path, small) -> None:
    """What is learned from of three sources, as the loader serves it; as many pictures go through the tower as records name."""
    x = small()
    paths = [write(tmp_path / f"{name}.jsonl", records(tmp_path, number, name)) for name, number in {"a": 4, "b": 9, "c": 6}.items()]
    splits = load(tmp_path, *({"path": str(path), "weight": weight} for path, weight in zip(paths, (2, 1, 1), strict=True)), num_dev=1, num_minival=2)
    train = Examples(splits.train, Encoder(model.load(x.model), PROMPT, answers=splits.answers), splits.sources)
    train.unfit(learned=True)
    epoch = train.epoch_length

    def seen(workers: int, done: int = 0) -> list[str]:
        x.trainer.num_workers = workers
        module = DataModule(train, train, x.trainer, (2, 1), 0, 2 * epoch // 2, done)
        return [name for batch in module.train_dataloader() for name in batch.sample_ids]

    whole = seen(0)
    assert seen(4) == whole and whole[:epoch] != whole[epoch : 2 * epoch]
    assert Counter(name[0] for name in whole[:epoch]) == {one.name[0]: one.places for one in realised(splits.sources)}
    for done in (1, epoch // 2, epoch - 1):
        assert seen(0, done) == whole[2 * done :]
    named = {one.sample_id: sum(isinstance(part, int) for turn in one.turns for part in turn.parts) for one in every(splits)}
    for batch in DataModule(train, train, x.trainer, (4, 1), 0, 3).train_dataloader():
        assert batch.media.counts == tuple(named[name] for name in batch.sample_ids)
