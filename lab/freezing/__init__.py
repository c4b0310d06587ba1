"""From a composed config to an `Experiment`: unknown keys, missing values and illegal combinations are told here.

Types are checked by OmegaConf while composing (`lab.config` is the schema); what types cannot say is checked by `combinations`. Light.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lab import bounds, paths, plugins
from lab.config import Experiment
from lab.errors import ConfigError
from lab.freezing.combinations import check
from lab.freezing.files import sources_hash, sources_of, with_hash
from lab.freezing.needed import require_given
from lab.freezing.schema import checked, checked_values
from lab.host.files import annotations_hash
from lab.placing import placed


def freeze(composed: DictConfig) -> Experiment:
    """Turn a composed config into an `Experiment`, or say which key is wrong.

    Unknown keys (`+foo=1`), missing values and values that are illegal alone or beside another are a
    `ConfigError`; `OmegaConf.to_object` alone would drop the first in silence.
    """
    return settled(checked(composed, Experiment, bounds.BOUNDS))


def settled(experiment: Experiment) -> Experiment:
    """The experiment with its paths expanded and its files hashed. Raises `ConfigError` for what is illegal beside another value."""
    require_given(experiment)
    for key, when in paths.PATHS.items():
        section, name = key.split(".")
        spelled = getattr(getattr(experiment, section), name)
        if spelled is not None:
            path = paths.expanded(spelled, key)
            setattr(getattr(experiment, section), name, path if when is paths.When.frozen else spelled)
    section = experiment.evaluation
    section.also = placed(section.also, section.also_root, section.max_samples)
    experiment.data.sources = sources_of(experiment.data.sources)
    if experiment.model.family == paths.AUTO:
        experiment.model.family = paths.family_of_tower(experiment.model.vision_from)
    check(experiment)
    if experiment.data.sources and experiment.data.sha256 is None:
        experiment.data.sha256 = sources_hash(experiment.data.sources)
    experiment.data.parts = [with_hash(part) for part in experiment.data.parts]
    file = experiment.data.path
    if file is not None and experiment.data.sha256 is None:
        try:
            experiment.data.sha256 = annotations_hash(file)
        except OSError as error:
            raise ConfigError(f"data.path={file}: the file cannot be read ({error.strerror}).") from None
    return experiment


def from_dict(values: dict[str, Any], source: str = "") -> Experiment:
    """The experiment of a run's stored config (`as_dict`), checked as any config is; source: the file, for the message."""
    try:
        return settled(checked_values(values, Experiment, bounds.BOUNDS))
    except (ConfigError, OmegaConfBaseException) as error:
        if not source:
            raise
        if lacking := plugins.missing(values):
            raise ConfigError(f"{source}: {error} It was made with plugins={lacking}, which this command was not given.") from None
        raise ConfigError(
            f"{source}: its config is none of this version of the laboratory: {error} The version that wrote it reads it (runs with "
            "evaluation.generate: commit 662f32b)."
        ) from None
