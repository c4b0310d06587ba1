"""The two checkpoints that an assembled model comes from: what they are, and that their files are what they say. No weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.host.progress import Report
from lab.model import identity
from lab.model.tying import torn

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Source:
    """One of the two. key: of the config. where: a folder or a hub id. files: its safetensors."""

    key: str
    where: str
    config: PretrainedConfig
    files: tuple[Path, ...]

    @property
    def spelled(self) -> str:
        """As an error begins."""
        return f"{self.key}={self.where}"

    def hash(self, cache_dir: Path, report: Report) -> str:
        """Of every byte of its weights."""
        return identity.identify(self.where, None, cache_dir, report)["weights"]

    def tensors(self) -> list[str]:
        """Names of the tensors in its files."""
        from safetensors import safe_open

        names: list[str] = []
        for path in self.files:
            with safe_open(path, framework="pt") as file:
                names += file.keys()
        return names


def read(key: str, where: str, legal: Sequence[str], why: str = "") -> Source:
    """A source whose `model_type` is one of the legal ones.

    why: what else to do, for the error. Raises `ModelError` for a source that is not there, of another type, quantised, or without
    safetensors.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"{key}={where}: its config.json cannot be read ({first}). Give a folder in Hugging Face layout, or a hub id.") from None
    if config.model_type not in legal:
        raise ModelError(f"{key}={where}: it is of type {config.model_type!r}, and {' or '.join(legal)} is needed here. {why}".rstrip())
    if getattr(config, "quantization_config", None):
        raise ModelError(f"{key}={where}: its weights are quantised, so they cannot be put together with others. Give the checkpoint it was made of.")
    files = tuple(identity.weight_files(where, None))
    if not files:
        raise ModelError(f"{key}={where}: it holds no safetensors, and weights are read from nothing else. Save it with save_pretrained first.")
    return Source(key, where, config, files)


def require_head(source: Source) -> None:
    """Raise a `ModelError` where a language model's `tie_word_embeddings` is not what its files hold."""
    if why := torn(source.files, bool(source.config.tie_word_embeddings)):
        raise ModelError(f"{source.spelled}: {why}")


def processor_file(source: Source, kind: str) -> Any:
    """A source's tokenizer, image processor or processor: `AutoTokenizer` and its like, by name. Raises `ModelError` without one."""
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(source.where)
    except (OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise ModelError(f"{source.spelled}: {kind} finds nothing there ({first}). Put its files beside the weights.") from None


def load(source: Source, name: str) -> torch.nn.Module:
    """A source's model by a class of Transformers, in the dtype of its files. Raises `ModelError` for tensors that it lacks."""
    import transformers

    model, info = getattr(transformers, name).from_pretrained(source.where, dtype="auto", use_safetensors=True, output_loading_info=True)
    lacking = sorted([*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])])
    if lacking:
        what = f"{len(lacking)} of the tensors of {name} (first: {lacking[0]})"
        raise ModelError(f"{source.spelled}: its files lack {what}, or have them in another shape. Take weights and config.json from one checkpoint.")
    return model.requires_grad_(False).eval()


def special_ids(tokenizer: Any, words: Sequence[str]) -> tuple[list[int], list[str]]:
    """The ids of words that are one token each, and those of them that are new. The tokenizer is changed."""
    known = tokenizer.get_vocab()
    new = [word for word in dict.fromkeys(words) if word not in known or tokenizer(word, add_special_tokens=False)["input_ids"] != [known[word]]]
    tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    return [tokenizer.convert_tokens_to_ids(word) for word in words], new


def generation_config(source: Source, ends: Sequence[int]) -> Any:
    """The language model's own, with every token that ends a turn."""
    from transformers import GenerationConfig

    named = identity.located(source.where, "generation_config.json", None)
    values = json.loads(Path(named).read_text(encoding="utf-8")) if named else {}
    own = values.pop("eos_token_id", source.config.eos_token_id)
    own = own if isinstance(own, list) else [own]
    return GenerationConfig(**values, eos_token_id=sorted({each for each in (*own, *ends) if each is not None}))
