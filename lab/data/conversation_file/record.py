"""One record of a manifest, checked: turns, the media that they name, and a sentence with key and reason for each way to be wrong.

Two forms, told apart by their key:

    conversations   of LLaVA: {"from": "human" | "gpt" | "system", "value": "<image> What is it?"}
    messages        of Transformers and TRL: {"role": "user" | "assistant" | "system", "content": text, or parts in a list}

`<image>` and `<video>` in the words of a user stand for the files of `image` or `images`, `video` or `videos`, in order, and keep their
place. A part of a message is {"type": "text", "text": ...}, or {"type": "image"}, which stands for the next file, or
{"type": "image", "image": FILE}; videos alike. A video is a file, or {"frames": [FILE, ...], "fps": 2}, or the same with "times" in seconds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from lab.data.conversation_file.media import Fault, Medium, may_be_medium, medium, refuse_unread_media
from lab.data.faults import not_unicode, shown
from lab.data.question_file.rows import PART_OF

COLUMNS = ("id", "conversations", "messages", "image", "images", "video", "videos", "split")
"""What is read of a record; `data.columns.image=photo` gives one another name."""
KINDS = ("image", "video")
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SPOKEN = {"conversations": ("from", "value", "human, gpt and system"), "messages": ("role", "content", "user, assistant and system")}
"""Of each form: who speaks, what is said, and the legal words for who."""
LETTERS = {word: role[0] for word, role in ROLES.items()}
ORDER = re.compile("s?(ua)+")
PLACEHOLDER = re.compile("<(image|video)>")

Parts = tuple[str | int, ...]


class Conversation(NamedTuple):
    """A record that is good. turns: (role, parts), a place in `media` for each placeholder; the last turn is the answer.

    name: its id, or None. part: of a given split, or None. media: in the order that turns name them.
    """

    name: str | None
    turns: tuple[tuple[str, Parts], ...]
    media: tuple[Medium, ...]
    part: str | None


class Form:
    """How records of a manifest are read. columns: `data.columns`. split: the record says which part it is in. answered: it ends with the
    assistant's answer; else that may be missing."""

    def __init__(self, columns: Mapping[str, str], answered: bool = True) -> None:
        self.answered = answered
        self.names = {column: columns.get(column, column) for column in COLUMNS}
        self.known = frozenset(self.names.values())
        self.split = "split" in columns

    def parse(self, record: Mapping[str, Any], held: Mapping[str, int] = {}) -> Conversation:
        """A record as a conversation. held: by column how many pictures a table holds of the record. Raises `Fault`."""
        if unread := record.keys() - self.known:
            refuse_unread_media(record, unread, self.names)
        key = self.form(record)
        said = record[self.names[key]]
        if type(said) is not list or not said:
            raise Fault(self.names[key], f"{shown(said)} is given; a list of turns that is not empty is legal")
        files = {kind: self.files(record, kind, held) for kind in KINDS}
        media: list[Medium] = []
        turns = tuple(self.turn(key, number, message, files, media) for number, message in enumerate(said, 1))
        self.check_order(self.names[key], turns)
        for kind in KINDS:
            if files[kind]:
                self.refuse_count(kind, len(files[kind]), media)
        name = record.get(self.names["id"])
        return Conversation(None if name is None else self.identifier(name), turns, tuple(media), self.part(record))

    def plain(self, record: Mapping[str, Any]) -> tuple[str | None, list[str], int] | None:
        """Id, pictures and number of answers of a record that is good as most are; None: `parse` says what it is. Of the two this is the fast one.

        It has turns of words alone, each with something said, of user and assistant in turn, and as many pictures as `<image>`.
        """
        names, extras = self.names, record.keys() - self.known
        key = "conversations" if names["conversations"] in record else "messages"
        image = names["image"] if names["image"] in record else names["images"]
        if self.split or len(record) - len(extras) != 2 + (image in record) or any(map(may_be_medium, map(record.get, extras))):
            return None
        who, what, _ = SPOKEN[key]
        roles, number = "", 0
        try:
            identifier = record[names["id"]]
            identifier = str(identifier) if type(identifier) is int else identifier
            for message in record[names[key]]:
                text = message[what]
                roles += LETTERS[message[who]]
                if not text or text.isspace():
                    return None
                if not text.isascii():
                    text.encode()
                if "<" in text:
                    number += text.count("<image>")
                    if "<video>" in text or roles[-1] != "u" and "<image>" in text:
                        return None
            files = record.get(image) or []
            files = [files] if type(files) is str else files
            answers = answers_in(roles)
            if not answers or len(files) != number or not identifier.strip() or not identifier.isascii():
                return None
            for file in files:
                if not file.strip() or ":" in file:
                    return None
            return identifier, files, answers
        except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
            return None

    def form(self, record: Mapping[str, Any]) -> str:
        """Which of the two keys the record has."""
        there = [key for key in SPOKEN if record.get(self.names[key]) is not None]
        if len(there) == 1:
            return there[0]
        both = " and ".join(repr(self.names[key]) for key in SPOKEN)
        raise Fault(self.names["conversations"], f"{both} are both given; one of them is legal" if there else
                    f"it is missing, and so is {self.names['messages']!r}; the record has {shown(sorted(record))}")  # fmt: skip

    def files(self, record: Mapping[str, Any], kind: str, held: Mapping[str, int]) -> list[Medium]:
        """The media of a kind that a record names, in order, the first last."""
        there = [column for column in (kind, f"{kind}s") if record.get(self.names[column]) is not None or held.get(column)]
        if len(there) > 1:
            raise Fault(self.names[kind], f"{self.names[f'{kind}s']!r} is given too; one of them is legal")
        if not there:
            return []
        (column,) = there
        if held.get(column):
            return [Medium(kind, column, place) for place in reversed(range(held[column]))]
        value = record[self.names[column]]
        return [medium(kind, self.names[column], one) for one in reversed(value if type(value) is list else [value])]

    def turn(self, key: str, number: int, message: Any, files: Mapping[str, list[Medium]], media: list[Medium]) -> tuple[str, Parts]:
        """Who speaks and what is said; what is said of media is taken from `files` into `media`."""
        who, what, legal = SPOKEN[key]
        name = self.names[key]
        if type(message) is not dict:
            raise Fault(name, f"turn {number}: {shown(message)} is given; an object with {who!r} and {what!r} is legal")
        speaker = message.get(who)
        role = ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise Fault(name, f"turn {number}: {who!r} is {shown(speaker)}; legal are {legal}")
        content = message.get(what)
        if type(content) is str:
            parts = tuple(self.words(name, number, content, files, media))
        elif key == "messages" and type(content) is list:
            parts = tuple(self.part_of(name, number, each, files, media) for each in content)
        else:
            wanted = "a text" if key == "conversations" else "a text or a list of parts"
            raise Fault(name, f"turn {number}: {what!r} is {shown(content)}; {wanted} is legal")
        if role != "user" and any(type(part) is int for part in parts):
            raise Fault(name, f"turn {number}: a medium stands in a turn of {speaker}; only the user shows media")
        if all(type(part) is str and not part.strip() for part in parts):
            raise Fault(name, f"turn {number}: {what!r} is {shown(content)}; a turn that says something is legal")
        return role, parts

    def words(self, name: str, number: int, text: str, files: Mapping[str, list[Medium]], media: list[Medium]) -> Iterator[str | int]:
        """A text as it is, a place in `media` for each placeholder in it."""
        if not text.isascii():
            require_unicode(name, number, text)
        if "<" not in text:
            yield text
            return
        for at, piece in enumerate(PLACEHOLDER.split(text)):
            if at % 2:
                yield self.next_of(piece, name, number, files, media)
            elif piece:
                yield piece

    def part_of(self, name: str, number: int, part: Any, files: Mapping[str, list[Medium]], media: list[Medium]) -> str | int:
        """A part of a message: its text, or the place in `media` of what it shows."""
        kind = part.get("type") if type(part) is dict else None
        if kind == "text" and type(part.get("text")) is str:
            require_unicode(name, number, part["text"])
            return part["text"]
        if kind not in KINDS:
            legal = '{"type": "text", "text": ...}, {"type": "image"} and {"type": "video"}'
            raise Fault(name, f"turn {number}: the part {shown(part)} is given; legal are {legal}")
        own = [key for key in (kind, "path", "url", "base64") if part.get(key) is not None]
        if not own:
            return self.next_of(kind, name, number, files, media)
        value = part[own[0]]
        if type(value) is list:
            value = {"frames": value, "fps": part.get("fps"), "times": part.get("times")}
        media.append(medium(kind, name, value))
        return len(media) - 1

    def next_of(self, kind: str, name: str, number: int, files: Mapping[str, list[Medium]], media: list[Medium]) -> int:
        """The place in `media` of the next file of a kind."""
        if not files[kind]:
            given = sum(one.kind == kind for one in media)
            key = self.names[f"{kind}s"]
            raise Fault(key, f"turn {number} of {name!r} shows {kind} {given + 1}, and {given} are given; each <{kind}> stands for one file")
        media.append(files[kind].pop())
        return len(media) - 1

    def refuse_count(self, kind: str, left: int, media: Sequence[Medium]) -> NoReturn:
        """Say that there are more files of a kind than placeholders."""
        used = sum(one.kind == kind for one in media)
        raise Fault(
            self.names[f"{kind}s"],
            f"{used + left} files are given, and its turns show {used}; write <{kind}> where each stands in the words of the user",
        )

    def check_order(self, name: str, turns: Sequence[tuple[str, Parts]]) -> None:
        """Raise a `Fault` unless user and assistant take turns, the user first and the assistant last, after at most one system turn."""
        roles = [role for role, _ in turns]
        first = 1 if roles[0] == "system" else 0
        for number, role in enumerate(roles[first:]):
            wanted = "assistant" if number % 2 else "user"
            if role != wanted:
                before = f"after a turn of {roles[first + number - 1]}" if number else "at the beginning"
                what = "a system turn stands first" if role == "system" else f"a turn of {wanted} belongs there"
                raise Fault(name, f"turn {first + number + 1} is of {role} {before}; {what}")
        if not self.answered:
            return
        if "assistant" not in roles:
            raise Fault(name, "no turn is of the assistant, so there is nothing to learn")
        if roles[-1] != "assistant":
            raise Fault(name, f"the last turn, {len(roles)}, is of {roles[-1]}; a conversation ends with the assistant's answer")

    def identifier(self, value: Any) -> str:
        """The id as a text."""
        if type(value) not in (str, int) or not str(value).strip():
            raise Fault(self.names["id"], f"{shown(value)} is given; a text or a whole number is legal")
        require_unicode(self.names["id"], None, str(value))
        return str(value)

    def part(self, record: Mapping[str, Any]) -> str | None:
        """Which part the record is in, where records say so."""
        if not self.split:
            return None
        value = record.get(self.names["split"])
        if type(value) is not str or value.lower() not in PART_OF:
            raise Fault(self.names["split"], f"{shown(value)} is given; legal: {', '.join(PART_OF)}")
        return PART_OF[value.lower()]


@functools.lru_cache(1000)
def answers_in(roles: str) -> int:
    """The number of answers of turns, each by the first letter of its role; 0 where they are not those of a conversation in order."""
    return roles.count("a") if ORDER.fullmatch(roles) else 0


def require_unicode(name: str, number: int | None, text: str) -> None:
    """Raise a `Fault` for a text with a lone surrogate."""
    if wrong := not_unicode(text):
        raise Fault(name, f"{'' if number is None else f'turn {number}: '}{wrong}")
