"""A model, its processor and its encoder without its weights, for what can be counted before any is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import conditioning, model, vision_tokens
from lab.config import Experiment, ModelDial
from lab.data.images import size_of
from lab.errors import ConfigError
from lab.model import labels
from lab.model.assembled.draft import draft
from lab.model.encoding import Encoder
from lab.model.tying import untie
from lab.records import Medium, Picture, Sample

if TYPE_CHECKING:
    from transformers import PretrainedConfig, ProcessorMixin

    from lab.model.architecture import Architecture, Grid


PUBLISHED = Path(__file__).with_name("published.json")
"""Sizes of some checkpoints by their hub ids, of their config.json there: a plan needs no hub."""


def on_meta(x: Experiment, attention: str = "eager") -> model.Vlm:
    """The model of an experiment without its weights, with what `vision_tokens` and `conditioning` add; no adapter yet.

    attention: Transformers' implementation; none keeps more than eager.
    """
    import torch

    family = model.family(x.model.family)
    config = config_of(x.model)
    family.require(f"vision_tokens={x.vision_tokens.name}")
    with torch.device("meta"):
        config = labels.relabelled(config, x.model.labels)
        bare = family.model_class(config)._from_config(config, attn_implementation=attention, dtype=getattr(torch, x.model.dtype.value))
        bare.requires_grad_(False)
        family.architecture.repair(bare)
        if x.model.untied_head:
            untie(bare, family.architecture.head(bare))
        vlm = model.Vlm(bare, None, family)  # no processor is needed to count
        if x.vision_tokens.name == "resampler":
            vision_tokens.install(vlm, x.vision_tokens)
        conditioning.install(vlm, x.conditioning)
    return vlm


def config_of(dial: ModelDial) -> PretrainedConfig:
    """A checkpoint's config; where a hub is out of reach, what `published.json` says of its sizes. Raises `ConfigError` without either."""
    from transformers import AutoConfig

    if dial.llm_from is not None:
        return draft(dial).config
    if dial.path is None:
        raise ConfigError(f"model.path=null: give your checkpoint's folder; conf/model/{dial.name}.yaml says of what kind.")
    try:
        return AutoConfig.from_pretrained(model.locate(dial.path), revision=dial.revision)
    except OSError as error:
        published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
        if dial.path in published:
            return AutoConfig.for_model(**published[dial.path])
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"model.path={dial.path}: its config.json cannot be read ({first}).") from None


def processor_of(dial: ModelDial) -> tuple[ProcessorMixin, PretrainedConfig] | None:
    """The checkpoint's processor and config, if they lie on this machine."""
    from transformers import AutoConfig

    if dial.llm_from is not None:
        assembled = draft(dial)
        return assembled.processor, assembled.config
    if dial.path is None:
        return None
    options = {"revision": dial.revision, "local_files_only": True}
    where = model.locate(dial.path)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        return model.family(dial.family).architecture.processor(where, config, options), config
    except OSError:
        return None


def encoder_of(x: Experiment) -> Encoder | None:
    """The encoder of an experiment without the weights, if the checkpoint's processor lies on this machine."""
    known = processor_of(x.model)
    if known is None:
        return None
    vlm = on_meta(x)
    vlm.processor = known[0]
    if x.vision_tokens.name != "resampler":  # which is there already
        vision_tokens.install(vlm, x.vision_tokens)
    return Encoder(vlm, x.prompt, x.seed)


def seen_tokens(dial: ModelDial, sample: Sample) -> int | None:
    """Tokens of the largest image of a sample, if the checkpoint's processor lies on this machine."""
    known = processor_of(dial)
    if known is None:
        return None
    architecture = model.family(dial.family).architecture
    grids = [grid_of(architecture, *known, image) for image in sample.images]
    return max((math.prod(architecture.merged(known[1], grid)) + architecture.beside_grid for grid in grids), default=None)


def grid_of(architecture: Architecture, processor: Any, config: Any, image: Medium) -> Grid:
    """The patch grid of a picture or a clip."""
    if isinstance(image, Picture):
        return architecture.grid(processor, config, size_of(image))
    assert architecture.clips is not None
    return architecture.clips.sampled(processor, image).grid
