"""How the question is put: `Sample -> Chat`. Pure strings, no torch.

The user turn holds the images in the order shown, each followed by the separator, then the template with the
statement in it. Special tokens are never written here: the checkpoint's own chat template makes them.
"""

from __future__ import annotations

import hashlib
import string
from typing import Any

from lab.answers import choice
from lab.config import ImageOrder, PromptDial
from lab.data.files import read_text
from lab.errors import ConfigError
from lab.host.files import values_hash
from lab.records import Chat, Sample

FIELDS = ("statement",)


def template_text(dial: PromptDial) -> str:
    """Return the frame around the statement, checked.

    Raises `ConfigError` unless it holds `{statement}` exactly once and no other field, or if
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
    if fields != list(FIELDS):
        raise ConfigError(
            f"{key}: its placeholders are {fields}, but exactly one {{statement}} and nothing else is legal: {text!r}."
        )
    return text


def written(dial: PromptDial) -> dict[str, str]:
    """The texts of the dial that end up in a prompt or an answer, by key; the template without a statement."""
    template = "prompt.template" if dial.template_file is None else "prompt.template_file"
    texts = {
        "prompt.system": dial.system or "",
        "prompt.separator": dial.separator,
        template: template_text(dial).format(statement=""),
        **dial.words,
    }
    return {key: text for key, text in texts.items() if text}


def image_order(sample: Sample, dial: PromptDial, seed: int) -> tuple[int, ...]:
    """Return the index in `sample.images` of each image as shown.

    `random` draws a permutation from (seed, sample_id) alone, so it is the same in every epoch, process and arm.
    """
    order = tuple(range(len(sample.images)))
    match dial.image_order:
        case ImageOrder.fixed:
            return order
        case ImageOrder.swap:
            return order[::-1]
        case ImageOrder.random:
            keys = {i: hashlib.sha256(f"{seed}/{sample.sample_id}/{i}".encode()).digest() for i in order}
            return tuple(sorted(order, key=keys.__getitem__))


def to_chat(sample: Sample, dial: PromptDial, seed: int = 0) -> Chat:
    """Frame one sample as messages and the answer word that follows them."""
    order = image_order(sample, dial, seed)
    content: list[dict[str, str]] = []
    for _ in order:
        content.append({"type": "image"})
        if dial.separator:
            content.append({"type": "text", "text": dial.separator})
    content.append({"type": "text", "text": template_text(dial).format(statement=sample.text)})
    messages = [{"role": "user", "content": content}]
    if dial.system is not None:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": dial.system}]})
    return Chat(tuple(messages), choice.target(sample.answer, dial), order)


def describe(dial: PromptDial) -> dict[str, Any]:
    """What the contract stores of the prompt: its full text, settings and one hash over both."""
    facts = {
        "name": dial.name,
        "version": dial.version,
        "system": dial.system,
        "template": template_text(dial),
        "separator": dial.separator,
        "numbered": dial.numbered,
        "image_order": dial.image_order.value,
        "answers": choice.described(dial),
    }
    return {**facts, "hash": values_hash(facts)}
