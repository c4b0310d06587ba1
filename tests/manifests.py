"""Manifests of conversations for tests, and every way to break a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

Record = dict[str, Any]
COLOURS = ("red", "green", "blue", "olive", "navy", "white")


def human(text: str) -> Record:
    return {"from": "human", "value": text}


def gpt(text: str) -> Record:
    return {"from": "gpt", "value": text}


def picture(folder: Path, name: str, number: int) -> str:
    """A picture of its own pixels."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32 + number % 7, 32 + number // 7), COLOURS[number % len(COLOURS)]).save(path)
    return name


def records(folder: Path, number: int, begin: str = "r") -> list[Record]:
    """Conversations of one to three answers; two of three show a picture of their own."""
    out = []
    for i in range(number):
        said = [turn for at in range(1 + i % 3) for turn in (human(f"What is {i} plus {at}?"), gpt(f"{i + at}"))]
        record: Record = {"id": f"{begin}{i}", "conversations": said}
        if i % 3:
            record["image"] = picture(folder, f"{begin}/{i}.png", i)
            said[0] = human(f"<image>\n{said[0]['value']}")
        out.append(record)
    return out


def as_messages(record: Record) -> Record:
    """The same conversation as messages, whose content is parts."""
    roles, out = {"human": "user", "gpt": "assistant", "system": "system"}, []
    for turn in record["conversations"]:
        pieces = turn["value"].split("<image>")
        parts: list[Record] = []
        for at, piece in enumerate(pieces):
            parts += [{"type": "image"}] * bool(at) + [{"type": "text", "text": piece}] * bool(piece)
        out.append({"role": roles[turn["from"]], "content": parts})
    return {key: value for key, value in record.items() if key != "conversations"} | {"messages": out}


def write(path: Path, rows: list[Any]) -> Path:
    """Records, or texts as they are, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([dict.fromkeys({key: None for row in rows for key in row}) | row for row in rows]), path)
        return path
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("[\n" + ",\n".join(texts) + "\n]\n" if path.suffix == ".json" else "\n".join(texts) + "\n", encoding="utf-8")
    return path


def said(*turns: Record, **more: Any) -> Record:
    return {"id": "x", "conversations": list(turns), **more}


def spoken(*messages: Record, **more: Any) -> Record:
    return {"id": "x", "messages": list(messages), **more}


YES = gpt("yes")
ASK = human("<image> Is it red?")
USER, ASSISTANT = {"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "yes"}
BROKEN: dict[str, tuple[Any, str]] = {
    "no turns": ({"id": "x", "image": "ok.png"}, "key 'conversations': it is missing, and so is 'messages'"),
    "both forms": (said(human("a"), YES, messages=[USER, ASSISTANT]), "key 'conversations': 'conversations' and 'messages' are both given"),
    "empty turns": (said(), "key 'conversations': [] is given; a list of turns that is not empty"),
    "turns are a text": ({"id": "x", "conversations": "hello"}, "key 'conversations': 'hello' is given; a list of turns"),
    "a turn is a text": ({"id": "x", "conversations": ["hello"]}, "turn 1: 'hello' is given; an object with 'from' and 'value'"),
    "nobody speaks": (said({"value": "hi"}, YES), "turn 1: 'from' is None; legal are human, gpt and system"),
    "another role": (said({"from": "tool", "value": "hi"}, YES), "turn 1: 'from' is 'tool'; legal are human, gpt and system"),
    "role is a number": (said({"from": 3, "value": "hi"}, YES), "turn 1: 'from' is 3"),
    "role of messages": (spoken({"role": "tool", "content": "hi"}, ASSISTANT), "turn 1: 'role' is 'tool'; legal are user, assistant and system"),
    "nothing said": (said({"from": "human"}, YES), "turn 1: 'value' is None; a text is legal"),
    "blank answer": (said(human("hi"), gpt("  ")), "turn 2: 'value' is '  '; a turn that says something"),
    "a number said": (said(human("hi"), {"from": "gpt", "value": 3}), "turn 2: 'value' is 3; a text is legal"),
    "ends with a question": (said(human("a"), YES, human("b")), "the last turn, 3, is of user; a conversation ends with"),
    "no answer": (said(human("a")), "no turn is of the assistant, so there is nothing to learn"),
    "only a system turn": (said({"from": "system", "value": "Be kind."}), "no turn is of the assistant"),
    "two questions running": (said(human("a"), human("b"), YES), "turn 2 is of user after a turn of user; a turn of assistant belongs there"),
    "two answers running": (said(human("a"), YES, YES), "turn 3 is of assistant after a turn of assistant; a turn of user belongs there"),
    "begins with an answer": (said(YES, human("a"), YES), "turn 1 is of assistant at the beginning; a turn of user belongs there"),
    "a late system turn": (
        said(human("a"), {"from": "system", "value": "b"}, YES), "turn 2 is of system after a turn of user; a system turn stands first",
    ),
    "unknown media key": (said(ASK, YES, img_path="ok.png"), "key 'img_path': 'ok.png' looks like a medium, and is not read"),
    "sound": (said(human("a"), YES, audio=["a.wav"]), "key 'audio': ['a.wav'] looks like a medium, and is not read"),
    "more placeholders": (
        said(human("<image><image> Alike?"), YES, image="ok.png"), "key 'images': turn 1 of 'conversations' shows image 2, and 1 are given",
    ),
    "no picture for a placeholder": (said(ASK, YES), "key 'images': turn 1 of 'conversations' shows image 1, and 0 are given"),
    "fewer placeholders": (said(ASK, YES, images=["ok.png", "ok.png"]), "key 'images': 2 files are given, and its turns show 1; write <image>"),
    "no placeholder": (said(human("Is it red?"), YES, image="ok.png"), "key 'images': 1 files are given, and its turns show 0; write <image>"),
    "picture for a clip": (
        said(human("<video> Is it?"), YES, image="ok.png"), "key 'videos': turn 1 of 'conversations' shows video 1, and 0 are given",
    ),
    "a picture in the answer": (
        said(human("a"), gpt("<image>"), image="ok.png"), "turn 2: a medium stands in a turn of gpt; only the user shows media",
    ),
    "image and images": (said(ASK, YES, image="ok.png", images=["ok.png"]), "key 'image': 'images' is given too; one of them is legal"),
    "a number for a picture": (said(ASK, YES, image=3), "key 'image': 3 is given; the path of a file"),
    "a blank path": (said(ASK, YES, image=""), "key 'image': '' is given; the path of a file"),
    "an address": (said(ASK, YES, image="https://a.b/c.png"), "key 'image': 'https://a.b/c.png' is an address; a file is legal. Fetch it first"),
    "a path that leaves": (said(ASK, YES, image="../ok.png"), "path '../ok.png' is given; it must lie inside"),
    "frames without times": (said(human("<video> Is it?"), YES, video={"frames": ["ok.png"] * 8}), 'its 8 frames have neither "fps" nor "times"'),
    "frames as clips": (said(human("<video>" * 8), YES, video=["ok.png"] * 8), "'ok.png' is a picture; a video of frames is legal as"),
    "falling times": (said(human("<video> Is it?"), YES, video={"frames": ["ok.png"] * 2, "times": [1, 0]}), '"times" is [1, 0]; a rising number'),
    "a part of another kind": (
        spoken({"role": "user", "content": [{"type": "audio"}]}, ASSISTANT), "turn 1: the part {'type': 'audio'} is given; legal are",
    ),
    "id is a list": ({"id": ["x"], "conversations": [human("a"), YES]}, "key 'id': ['x'] is given; a text or a whole number"),
    "a lone surrogate": ('{"id": "x", "conversations": [{"from": "human", "value": "\\ud800"}, {"from": "gpt", "value": "a"}]}', "a lone surrogate"),
    "a key twice": ('{"id": "x", "id": "y", "conversations": []}', "key 'id' is given twice"),
    "no object": ('["a"]', "a JSON object {...} is legal"),
    "no JSON": ('{"id": "x"', "not a JSON object"),
    "not a number": ('{"id": NaN}', "NaN is not JSON"),
    "missing file": (said(ASK, YES, image="lost.png"), "lost.png: the file is missing"),
    "no picture in it": (said(ASK, YES, image="text.png"), "text.png: its content is none of PNG, JPEG"),
    "cut off": (said(ASK, YES, image="cut.png"), "cut.png: the image cannot be decoded"),
    "missing clip": (said(human("<video> Is it?"), YES, video="lost.mp4"), "lost.mp4: the file is missing"),
}  # fmt: skip
"""By name a record and what is said of it; those below `no object` are no JSON, the last ones need a look at their media."""


def broken_media(folder: Path) -> None:
    """The files that `BROKEN` names."""
    whole = (folder / picture(folder, "ok.png", 1)).read_bytes()
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
