"""What the arms of a group share: the frozen base, the data, the features, the tokenised prompts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lab import data, lora, model
from lab.config import Experiment, as_dict, augments, trains
from lab.config.values import plain
from lab.evaluation import asking
from lab.host.files import values_hash
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.records import Splits
from lab.run import start
from lab.run.assembly import assemble, check_clips, load_base, rehearse, sized
from lab.run.other_data import Other, of_also, of_parts
from lab.training import devices, eviction
from lab.training.examples import Examples, prepare_all
from lab.training.features import FeatureStore
from lab.training.screening import screen

log = logging.getLogger(__name__)

SPLITS = ("train", "minival", "dev")
SIZES = ("name", "r", "trainable_parameters", "lora_alpha", "lora_dropout")
"""Keys of `lora` that decide neither which tensors an adapter has nor how they begin."""


@dataclass
class Prepared:
    """What the arms of a group share: the frozen base, the data, the features, the tokenised prompts."""

    vlm: Vlm
    splits: Splits
    examples: dict[str, dict[str, Examples]] = field(default_factory=dict)
    screened: dict[str, Splits] = field(default_factory=dict)
    stores: dict[str, FeatureStore] = field(default_factory=dict)
    known: dict[tuple[str, str], Other] = field(default_factory=dict)
    rehearsed: set[str] = field(default_factory=set)

    def encoded(self, x: Experiment, report: Report = silent, beside: Callable[[], None] | None = None) -> dict[str, Examples]:
        """The splits, tokenised with the experiment's prompt and token budget; built once per such pair.

        beside: what is done while other processes compute features, which may ask for the splits; from pixels they are meanwhile.
        Raises `DataError` for records that the checkpoint cannot take so, or leaves them out: `lab.training.screening`.
        """
        key = encoding_key(x)
        if key not in self.examples:
            vlm = assemble(x, self.vlm)
            encoder = Encoder(vlm, x.prompt, x.seed, self.splits.answers)
            self.screened[key], made = screen(self.splits, needed_splits(x), encoder, x.data)
            self.tell_apart(key)
            self.examples[key] = made
            try:
                prepare_all(made.values(), self.store(x, vlm, encoder), vlm, report, beside)
            except BaseException:
                del self.examples[key]
                raise
        return self.examples[key]

    def others(self, x: Experiment, wanted: Iterable[str], report: Report = silent) -> list[Other]:
        """Other data that the experiment is asked beside its own, those wanted of `lab.config.asked`; read and encoded once."""
        key, encoder = encoding_key(x), self.encoded(x)["dev"].encoder
        lacking = [name for name in wanted if (key, name) not in self.known]
        for other in (*of_parts(x, self.splits_of(x), self.encoded(x), lacking), *of_also(x, encoder, lacking)):
            vlm = assemble(x, self.vlm)
            vlm.family.require(f"answers={other.part.splits.kind}", other.asked)
            prepare_all(other.examples.values(), self.store(x, vlm, encoder), vlm, report)
            self.known[key, other.asked] = other
        return [self.known[key, name] for name in wanted if (key, name) in self.known]

    def splits_of(self, x: Experiment) -> Splits:
        """The splits as an experiment learns from them and is measured on them: without what its encoding cannot take."""
        self.encoded(x)
        return self.screened[encoding_key(x)]

    def tell_apart(self, key: str) -> None:
        """Warn if arms encoded in one way see other samples than those encoded before."""
        first, this = next(iter(self.screened.values())), self.screened[key]
        pairs = {name: (getattr(first, name), getattr(this, name)) for name in SPLITS}
        differing = [name for name, (one, other) in pairs.items() if one is not other and tuple(one.sample_ids) != tuple(other.sample_ids)]
        if differing:
            log.warning(
                "data.on_bad=skip leaves these arms different samples in %s: %d records left out of some, %d of others, as some cannot be "
                "encoded by every arm; sweep.require=[samples] refuses such a sweep",
                ", ".join(differing), len(first.skipped), len(this.skipped),
            )  # fmt: skip

    def store(self, x: Experiment, vlm: Vlm, encoder: Encoder) -> FeatureStore | None:
        """The features of the frozen tower, one store for each way of preprocessing; None where they cannot be kept."""
        if not x.trainer.feature_cache or tower_trains(x) or augments(x) or not vlm.family.offers("feature_cache"):
            return None
        key = json.dumps(encoder.settings(), sort_keys=True, default=str)
        if key not in self.stores:
            self.stores[key] = FeatureStore(Path(x.tracking.cache_dir), vlm, encoder)
            eviction.trim(Path(x.tracking.cache_dir), int(1e9 * x.tracking.cache_gb))
        return self.stores[key]


def needed_splits(x: Experiment) -> tuple[str, ...]:
    """The zero-shot baseline reads no training data, unless it is asked for."""
    return SPLITS if trains(x) or "train" in x.evaluation.splits else ("minival", "dev")


def shared_key(x: Experiment) -> str:
    """Arms with one key share base, features and data: what `vision_tokens` and `conditioning` add is each arm's own."""
    values = as_dict(x)
    kept = {name: values[name] for name in ("model", "data")}
    del kept["model"]["start"], kept["data"]["order"], kept["data"]["questions_per_image"]
    kept["tower trains"] = tower_trains(x)
    kept["cache"] = x.trainer.feature_cache
    return values_hash(kept)


def encoding_key(x: Experiment) -> str:
    """Arms with one key, of one group, share tokenised data too."""
    kept = {"prompt": plain(x.prompt), "vision_tokens": plain(x.vision_tokens), "conditioning": plain(x.conditioning)}
    order_seed = x.seed if kept["prompt"]["image_order"] == "random" else None
    return values_hash({**kept, "order seed": order_seed, "trains": trains(x), "tower trains": tower_trains(x)})


def tower_trains(x: Experiment) -> bool:
    """Whether the tower or the projector is another than the base's, so that their output cannot be cached."""
    seeing = {"vision", "projector"}
    adapted = x.lora.r > 0 and (x.lora.target_modules not in lora.PRESETS or bool(seeing & set(x.lora.where)))
    return adapted or bool(seeing & set(x.lora.full)) or x.model.start is not None


def require_adapter(x: Experiment, prepared: Prepared) -> None:
    """Raise, before anything is encoded, for adapters that could not be attached, or a start that cannot be gone on from."""
    lora.verify(assemble(x, prepared.vlm), x.lora)
    start.require(x, prepared.vlm)


def try_out(x: Experiment, prepared: Prepared) -> None:
    """`require_adapter`, and raise, before any step, for adapters that could be trained and then not be loaded.

    Takes no features: it comes before they are computed, or beside. What is attached is saved and loaded once for all arms that differ in
    size and rates alone. Raises `ConfigError`, `ModelError`, `ContractError`, `DataError`.
    """
    require_adapter(x, prepared)
    values = as_dict(x)
    adapters = {key: value for key, value in values["lora"].items() if key not in SIZES}
    key = values_hash({"lora": adapters, **{name: values[name] for name in ("vision_tokens", "conditioning")}})
    if trains(x) and x.trainer.use_liger_kernel:
        from lab.training import liger  # with Lightning, which is imported beside the features' computation

        liger.require(prepared.vlm)
    if trains(x) and key not in prepared.rehearsed:
        rehearse(sized(x, prepared.vlm), prepared.vlm)
        prepared.rehearsed.add(key)


def prepare(x: Experiment, report: Report = silent) -> Prepared:
    """Load the data and the base of a group of arms, and encode. All that is wrong with them is said here."""
    prepared = load_shared(x, report)
    prepared.encoded(x, report)
    return prepared


def load_shared(x: Experiment, report: Report = silent) -> Prepared:
    """The data and the base of a group of arms; nothing is encoded yet."""
    devices.require(x.trainer)
    splits = data.load(x.data, Path(x.tracking.cache_dir))
    asking.check(splits.kind, data.lead(x.data).name, model.family(x.model.family), x.evaluation)
    if splits.clips:
        check_clips(x, f"data={x.data.name}")
    for note in splits.notes:
        log.info("data: %s", note)
    if splits.skipped:
        log.warning("data: %d records are skipped (data.on_bad=skip); see facts.data.skipped in run.json", len(splits.skipped))
    for name in needed_splits(x):
        if name != "minival":
            data.require_split(splits, name)
    base = load_base(x, report)
    if x.trainer.feature_cache and tower_trains(x):
        preset = x.lora.target_modules in lora.PRESETS
        what = f"lora.where={list(x.lora.where)}" if preset else f"lora.target_modules={x.lora.target_modules}"
        what = f"lora.full={list(x.lora.full)}" if x.lora.full else what
        what = f"model.start={x.model.start}" if x.model.start else what
        log.warning("features are not cached: %s may change the tower or its projector", what)
    elif x.trainer.feature_cache and augments(x):
        log.warning("features are not cached: data.augment shows another picture in every epoch")
    elif x.trainer.feature_cache and (why := base.family.why_not("feature_cache")):
        log.warning("features are not cached: model.family=%s: %s", x.model.family, why)
    return Prepared(base, splits)
