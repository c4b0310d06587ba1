"""How the question is put: `Sample -> Chat`. Pure strings, no torch.

The user turn holds the images in the order shown, each followed by the separator, then the template with the
statement or the question in it. A conversation stands as it is, its images among the words of its turns, in no frame.
Special tokens are never written here: the checkpoint's own chat template makes them.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from lab import data, paths, plugins
from lab.answers import choice
from lab.config import DataDial, ImageOrder, PromptDial
from lab.data.files import read_text
from lab.errors import ConfigError, did_you_mean
from lab.host.files import values_hash
from lab.records import Chat, Choice, Clip, Medium, Sample, Turn

ASKS = {
    "statement": "prompt=declarative, prompt=qa or prompt=statement",
    "question": "prompt=question or prompt=boxes",
    "conversation": "prompt=conversation",
}
"""What a template may frame, and the shipped prompts that do. Around a conversation there is nothing: its template is its name alone."""


class Frame(NamedTuple):
    """A template, read and checked. asks: what it frames, of `ASKS`."""

    template: str
    asks: str

    def around(self, text: str) -> str:
        """A text in its frame."""
        return self.template.format(**{self.asks: text})

    def inside(self, text: str) -> str:
        """What stands in the frame where a text is framed already; else the text."""
        before, after = self.around("\0").split("\0")
        framed = len(text) > len(before) + len(after) and text.startswith(before) and text.endswith(after)
        return text[len(before) : len(text) - len(after)] if framed else text


def parse_template(dial: PromptDial) -> Frame:
    """The frame around the text.

    Raises `ConfigError` unless it holds `{statement}` or `{question}` exactly once and no other field, or is `{conversation}`, or if
    `prompt.template_file` cannot be read as UTF-8.
    """
    key, text = "prompt.template", dial.template
    if dial.template_file is not None:
        key = f"prompt.template_file={dial.template_file}"
        try:
            text = read_text(dial.template_file).rstrip("\n")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key}: it cannot be read as UTF-8 text ({error}).") from None
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ConfigError(f"{key}: {error}. Write a literal brace as {{{{ or }}}}.") from None
    if len(fields) != 1 or fields[0] not in ASKS:
        raise ConfigError(
            f"{key}: its placeholders are {fields}, but exactly one {{statement}} or {{question}} and nothing else is legal: {text!r}."
        )
    if fields[0] == "conversation" and text != "{conversation}":
        raise ConfigError(f"{key}: a conversation stands as it is, so nothing but {{conversation}} is legal: {text!r}.")
    return Frame(text, fields[0])


def option(name: str) -> PromptDial:
    """An option of `prompt`. Raises `ConfigError` for a name that is none."""
    from omegaconf import OmegaConf

    folders = [folder / "prompt" for folder in (paths.shipped("conf"), *plugins.conf_folders())]
    known = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise ConfigError(f"prompt={name}: legal values are {', '.join(known)}.{did_you_mean(name, known)}")
    dial: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(PromptDial), OmegaConf.load(known[name])))
    return dial


def of_data(dial: DataDial, kind: str, chosen: str | None, own: PromptDial, own_kind: str) -> PromptDial:
    """How the questions of a data option are put, answered in `kind`, beside a run's own prompt and kind.

    chosen: an option of `prompt`; None: the run's own prompt where it frames what the data have and answers are of the same kind, else the
    one that the data option chooses. Boxes are written as the run's prompt says.
    """
    asks = data.named(dial.name).asks
    if chosen is None and kind == own_kind and asks in (None, parse_template(own).asks):
        return own
    prompt = replace(option(chosen or data.prompt_of(dial.name)), boxes=own.boxes)
    check(prompt, dial.name, asks)
    return prompt


def check(dial: PromptDial, name: str, asks: str | None) -> None:
    """Raise a `ConfigError` for a prompt that does not frame what the data set has; asks: of `ASKS`, or None of either."""
    framed = parse_template(dial).asks
    if asks is not None and framed != asks:
        raise ConfigError(
            f"prompt={dial.name}: it frames a {framed}, and data={name} has {asks}s. Choose {ASKS[asks]}, or a template with {{{asks}}}."
        )


def written(dial: PromptDial) -> dict[str, str]:
    """The texts of the dial that end up in a prompt or an answer, by key; the template without a text in it."""
    key = "prompt.template" if dial.template_file is None else "prompt.template_file"
    texts = {"prompt.system": dial.system or "", "prompt.separator": dial.separator, key: parse_template(dial).around(""), **dial.words}
    return {key: text for key, text in texts.items() if text}


def image_order(sample: Sample, dial: PromptDial, seed: int) -> tuple[int, ...]:
    """Return the index in `sample.images` of each image as shown; `fixed` in a conversation: as its turns name them.

    `random` draws a permutation from (seed, sample_id) alone, so it is the same in every epoch, process and arm.
    """
    named = tuple(part for turn in sample.turns for part in turn.parts if isinstance(part, int))
    order = named if sample.turns else tuple(range(len(sample.images)))
    match dial.image_order:
        case ImageOrder.fixed:
            return order
        case ImageOrder.swap:
            return order[::-1]
        case ImageOrder.random:
            keys = {i: hashlib.sha256(f"{seed}/{sample.sample_id}/{i}".encode()).digest() for i in order}
            return tuple(sorted(order, key=keys.__getitem__))


def to_chat(sample: Sample, dial: PromptDial, seed: int = 0, frame: Frame | None = None, target: str | None = None) -> Chat:
    """Frame one sample as messages and the answer that follows them.

    frame: the dial's, where it has been parsed. target: the text of the answer, where the sample alone does not say it.
    """
    order = image_order(sample, dial, seed)
    turns = sample.turns or (Turn("user", asked(sample, dial, frame or parse_template(dial))),)
    if dial.system is not None and turns[0].role != "system":
        turns = Turn("system", (dial.system,)), *turns
    shown = (sample.images[place] for place in order)
    messages = tuple({"role": turn.role, "content": [content(part, shown) for part in turn.parts]} for turn in turns)
    learned = tuple(place for place, turn in enumerate(turns) if turn.learned)
    answer = choice.target(sample.answer, dial) if isinstance(sample.answer, Choice) else sample.answer.text
    return Chat(messages, answer if target is None else target, order, learned, interleaved=bool(sample.turns))


def asked(sample: Sample, dial: PromptDial, frame: Frame) -> tuple[str | int, ...]:
    """What the turn of a lone question holds: each image with the separator, then the text in its frame."""
    pictures = [part for place in range(len(sample.images)) for part in (place, dial.separator) if part != ""]
    return *pictures, frame.around(sample.text)


def content(part: str | int, shown: Iterator[Medium]) -> dict[str, str]:
    """A part of a turn in Transformers' form; of an image the next of those that are shown."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "video" if isinstance(next(shown), Clip) else "image"}


def describe(dial: PromptDial) -> dict[str, Any]:
    """What the contract stores of the prompt: its full text, settings and one hash over both."""
    frame = parse_template(dial)
    facts = {
        "name": dial.name,
        "version": dial.version,
        "system": dial.system,
        "template": frame.template,
        "separator": dial.separator,
        "numbered": dial.numbered,
        "image_order": dial.image_order.value,
    }
    facts |= {"answers": choice.described(dial)} if frame.asks == "statement" else {}
    return {**facts, "hash": values_hash(facts)}
