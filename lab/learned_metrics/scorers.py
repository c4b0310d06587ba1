"""The learned metrics, each with its model loaded: `score(pairs)` gives float64 [pairs] for pairs of prediction and reference."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lab.errors import ConfigError, did_you_mean
from lab.host.progress import Report, silent
from lab.learned_metrics import PARTS
from lab.learned_metrics.checkpoints import TextModel, mean_pooled

Pairs = Sequence[tuple[str, str]]


class Scorer:
    """What the metrics have in common. options: what beside the model moves a number, for the record."""

    def __init__(self, loaded: TextModel, batch_size: int, options: dict[str, Any]) -> None:
        if batch_size < 1:
            raise ConfigError(f"--batch-size {batch_size}: give 1 or more.")
        self.loaded, self.batch_size, self.options = loaded, batch_size, options

    @property
    def versions(self) -> dict[str, str]:
        """Of the libraries that compute it."""
        return {name: importlib.metadata.version(name) for name in ("transformers", "tokenizers", "torch")}

    def score(self, pairs: Pairs, report: Report = silent) -> np.ndarray:
        """The score of every pair, float64 [pairs]."""
        order = sorted(range(len(pairs)), key=lambda i: (len(pairs[i][0]) + len(pairs[i][1]), pairs[i]))  # alike lengths need little padding
        values = np.zeros(len(pairs))
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                values[places] = self.of_batch([(pairs[i][0].strip(), pairs[i][1].strip()) for i in places])
                report(f"scoring {type(self).__name__.lower()} (pairs)", start + len(places), len(pairs), "")
        self.loaded.tell_cut()
        return values

    def of_batch(self, pairs: Pairs) -> np.ndarray:
        """The scores of a few pairs."""
        raise NotImplementedError


def chosen(part: str) -> str:
    """The part, if it is one."""
    if part not in PARTS:
        raise ConfigError(f"--part {part}: legal are {', '.join(PARTS)}.{did_you_mean(part, PARTS)}")
    return part


class Bertscore(Scorer):
    """Precision, recall or F1 of greedy matching. Special tokens may be matched with, but have no weight, as in bert-score."""

    def __init__(
        self, model: str | Path | None, num_layers: int | None = None, part: str = "f1", batch_size: int = 64, device: str | None = None
    ) -> None:
        loaded = TextModel(model, "AutoModel", device, add_prefix_space=True)
        most = loaded.model.config.num_hidden_layers
        if num_layers is not None and not 1 <= num_layers <= most:
            raise ConfigError(f"--num-layers {num_layers}: {loaded.name} has {most} layers.")
        self.num_layers = most if num_layers is None else num_layers
        super().__init__(loaded, batch_size, {"num_layers": self.num_layers, "part": chosen(part)})

    def of_batch(self, pairs: Pairs) -> np.ndarray:
        return self.parts(pairs)[:, PARTS.index(self.options["part"])]

    def parts(self, pairs: Pairs) -> np.ndarray:
        """Precision, recall and F1, float64 [pairs, 3]; 0 where a side has no token of its own."""
        texts = list(dict.fromkeys(chain.from_iterable(pairs)))
        known = dict(zip(texts, self.embeddings(texts), strict=True))
        found = np.zeros((len(pairs), 3))
        for row, pair in zip(found, pairs, strict=True):
            (one, counts), (other, counted) = known[pair[0]], known[pair[1]]
            if counts.any() and counted.any():
                alike = one @ other.T
                precision, recall = alike.max(dim=1).values[counts].mean(), alike.max(dim=0).values[counted].mean()
                row[:] = precision.item(), recall.item(), (2 * precision * recall / (precision + recall)).item()
        return found

    def embeddings(self, texts: Sequence[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of each text its tokens' unit vectors, float32 [T, width], and which of them have a weight, bool [T]."""
        encoded = self.loaded.encode(texts)
        special = encoded.pop("special_tokens_mask").bool()
        hidden = self.loaded.model(**encoded, output_hidden_states=True).hidden_states[self.num_layers]
        for vectors, there, marks in zip(F.normalize(hidden, dim=-1), encoded["attention_mask"].bool(), special, strict=True):
            yield vectors[there], ~marks[there]


class Bartscore(Scorer):
    """Mean log p of the target's tokens given the source. recall: the reference is the target; precision: the prediction; f1: their mean."""

    def __init__(self, model: str | Path, part: str = "recall", batch_size: int = 64, device: str | None = None) -> None:
        super().__init__(TextModel(model, "AutoModelForSeq2SeqLM", device), batch_size, {"part": chosen(part)})

    def of_batch(self, pairs: Pairs) -> np.ndarray:
        turned = [(reference, prediction) for prediction, reference in pairs]
        match self.options["part"]:
            case "recall":
                return self.likelihood(pairs)
            case "precision":
                return self.likelihood(turned)
            case _:
                return (self.likelihood(pairs) + self.likelihood(turned)) / 2

    def likelihood(self, pairs: Pairs) -> np.ndarray:
        """Of pairs of source and target."""
        sources, targets = (self.loaded.encode(side) for side in zip(*pairs, strict=True))
        labels = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)
        logits = self.loaded.model(input_ids=sources["input_ids"], attention_mask=sources["attention_mask"], labels=labels).logits
        each = -F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        return (each.double().sum(dim=1) / targets["attention_mask"].sum(dim=1)).cpu().numpy()


class Cosine(Scorer):
    """Cosine of sentence embeddings."""

    def __init__(self, model: str | Path | None, batch_size: int = 64, device: str | None = None) -> None:
        loaded = TextModel(model, "AutoModel", device)
        self.mean = mean_pooled(loaded.where)
        super().__init__(loaded, batch_size, {})

    def of_batch(self, pairs: Pairs) -> np.ndarray:
        texts = list(dict.fromkeys(chain.from_iterable(pairs)))
        encoded = self.loaded.encode(texts)
        encoded.pop("special_tokens_mask")
        hidden, mask = self.loaded.model(**encoded).last_hidden_state, encoded["attention_mask"][..., None].float()
        known = F.normalize((hidden * mask).sum(dim=1) / mask.sum(dim=1) if self.mean else hidden[:, 0], dim=-1)
        place = {text: i for i, text in enumerate(texts)}
        sides = [known[[place[pair[side]] for pair in pairs]] for side in (0, 1)]
        return (sides[0] * sides[1]).sum(dim=-1).double().cpu().numpy()


SCORERS: dict[str, type[Scorer]] = {scorer.__name__.lower(): scorer for scorer in (Bertscore, Bartscore, Cosine)}
