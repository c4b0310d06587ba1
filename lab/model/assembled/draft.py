"""An assembled model before its weights: its config and its processor, by the rules of one of the two routes."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from lab.config import ModelDial
from lab.errors import ConfigError, ModelError
from lab.model.assembled import sources
from lab.model.assembled.sources import Source


@dataclass
class Draft:
    """config, processor: of the model that is made. model_class: its class in Transformers.

    vision, llm: where it comes from. tower_class: that the tower is loaded by. tower: the prefix of its tensors in the model, and in its
    own class. left_out: of the tower's tensors, by a regular expression, what the model has no place for. old_rows: of the language
    model's vocabulary. tokens_added: to its tokenizer. facts: choices that are worth recording.
    """

    config: Any
    processor: Any
    model_class: str
    vision: Source
    llm: Source
    tower_class: str
    tower: tuple[str, str]
    old_rows: int
    generation: Any
    tokens_added: list[str]
    left_out: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def draft(dial: ModelDial) -> Draft:
    """What the dial asks for. Raises `ConfigError` or `ModelError`, a sentence for each thing that cannot be put together."""
    from lab.model.assembled import llava, qwen3_vl

    routes = {"qwen3_vl": qwen3_vl.draft, "llava": llava.draft}
    if dial.family not in routes:
        raise ConfigError(
            f"model.family={dial.family}: an assembled model is of {' or '.join(routes)}. Leave model.family out: the tower says which."
        )
    return routes[dial.family](dial)


def text_config_of(llm: Source, tokenizer: Any) -> tuple[Any, int]:
    """The language model's own config, with as many rows as its grown tokenizer needs and never fewer than it has; and how many it has.

    Raises `ModelError` where its padding token lies outside its vocabulary.
    """
    sources.require_head(llm)
    config = copy.deepcopy(llm.config)
    rows = config.vocab_size
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < rows:
        raise ModelError(f"{llm.spelled}: its pad_token_id={config.pad_token_id} is no row of its vocabulary of {rows}. Correct its config.json.")
    config.vocab_size = max(rows, max(tokenizer.get_vocab().values()) + 1)
    config.pad_token_id = tokenizer.pad_token_id
    return config, rows


def with_padding(tokenizer: Any) -> list[str]:
    """The padding token that a tokenizer is given where it has none; nothing else pads."""
    if tokenizer.pad_token is not None:
        return []
    new = "<pad>" not in tokenizer.get_vocab()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return ["<pad>"] * new
