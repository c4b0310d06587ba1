"""What the arms of a group share: the frozen base, the data, the features, the tokenised prompts."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import data, lora, model
from lab.config import Experiment, as_dict, trains
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.progress import Report, silent
from lab.records import Splits
from lab.run.assembly import assemble
from lab.training import eviction
from lab.training.datamodule import Examples
from lab.training.features import FeatureStore

log = logging.getLogger(__name__)

SPLITS = ("train", "minival", "dev")


@dataclass
class Prepared:
    """What the arms of a group share: the frozen base, the data, the features, the tokenised prompts."""

    vlm: Vlm
    splits: Splits
    examples: dict[str, dict[str, Examples]] = field(default_factory=dict)
    stores: dict[str, FeatureStore] = field(default_factory=dict)

    def encoded(self, x: Experiment, report: Report = silent) -> dict[str, Examples]:
        """The splits, tokenised with the experiment's prompt and token budget; built once per such pair."""
        key = encoding_key(x)
        if key not in self.examples:
            vlm = assemble(x, self.vlm)
            encoder = Encoder(vlm, x.prompt, x.seed)
            made = {name: Examples(getattr(self.splits, name), encoder) for name in needed_splits(x)}
            for examples in made.values():
                if len(examples):
                    encoder.picture(examples.split[0].images[0])
                examples.prepare(self.store(x, vlm, encoder), vlm, report)
            self.examples[key] = made
        return self.examples[key]

    def store(self, x: Experiment, vlm: Vlm, encoder: Encoder) -> FeatureStore | None:
        """The features of the frozen tower, one store for each way of preprocessing; None where they cannot be kept."""
        if not x.trainer.feature_cache or tower_trains(x) or not vlm.family.single_output:
            return None
        key = json.dumps(encoder.settings(), sort_keys=True, default=str)
        if key not in self.stores:
            self.stores[key] = FeatureStore(Path(x.tracking.cache_dir), vlm, encoder)
            eviction.trim(Path(x.tracking.cache_dir), int(1e9 * x.tracking.cache_gb))
        return self.stores[key]


def needed_splits(x: Experiment) -> tuple[str, ...]:
    """The zero-shot baseline reads no training data."""
    return SPLITS if trains(x) else ("minival", "dev")


def shared_key(x: Experiment) -> str:
    """Arms with one key share base, features and data: what `vision_tokens` and `conditioning` add is each arm's own."""
    values = as_dict(x)
    kept = {name: values[name] for name in ("model", "data")}
    kept["tower trains"] = tower_trains(x)
    kept["cache"] = x.trainer.feature_cache
    return digest(kept)


def encoding_key(x: Experiment) -> str:
    """Arms with one key, of one group, share tokenised data too."""
    values = as_dict(x)
    order_seed = x.seed if values["prompt"]["image_order"] == "random" else None
    kept = {name: values[name] for name in ("prompt", "vision_tokens", "conditioning")}
    return digest({**kept, "order seed": order_seed, "trains": trains(x), "tower trains": tower_trains(x)})


def digest(values: dict[str, Any]) -> str:
    """16 hexadecimal digits that name plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def tower_trains(x: Experiment) -> bool:
    """Whether adapters sit in the tower or the projector, so that their output cannot be cached."""
    presets = x.lora.target_modules in lora.PRESETS
    return x.lora.r > 0 and (not presets or bool({"vision", "projector"} & set(x.lora.where)))


def prepare(x: Experiment, report: Report = silent) -> Prepared:
    """Load the data and the base of a group of arms. All that is wrong with them is said here, before any training."""
    import torch

    torch.set_num_threads(x.trainer.threads)
    cache = Path(x.tracking.cache_dir)
    splits = data.load(x.data, cache)
    for note in splits.notes:
        log.info("data: %s", note)
    if splits.skipped:
        log.warning("data: %d records are skipped (data.on_bad=skip); see facts.data.skipped in run.json", len(splits.skipped))
    for name in needed_splits(x):
        if name != "minival":
            data.demand(splits, name)
    base = model.load(x.model, cache, report)
    if x.trainer.accelerator != "cpu" and torch.cuda.is_available():
        base.model.to("cuda")
    if x.trainer.feature_cache and tower_trains(x):
        what = f"lora.where={list(x.lora.where)}" if x.lora.target_modules in lora.PRESETS else f"lora.target_modules={x.lora.target_modules}"
        log.warning("features are not cached: %s may change the tower or its projector", what)
    elif x.trainer.feature_cache and not base.family.single_output:
        log.warning("features are not cached: the tower of model.family=%s gives more than one tensor an image", x.model.family)
    prepared = Prepared(base, splits)
    prepared.encoded(x, report)
    return prepared
