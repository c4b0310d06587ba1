"""All keys of an experiment, section by section, and what follows from several of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from lab.config.conditioning import ConditioningDial
from lab.config.data import Augment, DataDial
from lab.config.endpoint import Endpoint
from lab.config.evaluation import EvaluationSection
from lab.config.lora import LoraDial
from lab.config.model import ModelDial
from lab.config.optim import Optim
from lab.config.prompt import PromptDial
from lab.config.sweep import RaceSection, SweepSection
from lab.config.tracking import Tracking
from lab.config.trainer import TrainerSection
from lab.config.vision_tokens import VisionTokensDial

DIALS = ("model", "data", "lora", "prompt", "vision_tokens", "conditioning")
RECIPE = "recipe"
"""The group of `conf/` that is no dial: values over all of them, of which a run knows nothing but the values."""


@dataclass
class Experiment:
    """All keys. endpoint: the server and the name of the model that `model=endpoint` asks."""

    model: ModelDial = field(default_factory=ModelDial)
    data: DataDial = field(default_factory=DataDial)
    lora: LoraDial = field(default_factory=LoraDial)
    prompt: PromptDial = field(default_factory=PromptDial)
    vision_tokens: VisionTokensDial = field(default_factory=VisionTokensDial)
    conditioning: ConditioningDial = field(default_factory=ConditioningDial)
    optim: Optim = field(default_factory=Optim)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    endpoint: Endpoint = field(default_factory=Endpoint)
    sweep: SweepSection = field(default_factory=SweepSection)
    race: RaceSection = field(default_factory=RaceSection)
    tracking: Tracking = field(default_factory=Tracking)
    plugins: list[str] = field(default_factory=list)
    seed: int = 0


def adds_modules(x: Experiment) -> bool:
    """Whether a dial other than `lora` adds modules that train."""
    return x.vision_tokens.name == "resampler" or x.conditioning.name == "cross_attention"


def augments(x: Experiment) -> bool:
    """Whether an epoch shows other views of the training pictures than the one before."""
    return dataclasses.replace(x.data.augment, min_area=Augment.min_area) != Augment()


def trains(x: Experiment) -> bool:
    """Whether the experiment takes any optimizer step."""
    return bool(x.trainer.max_steps) or bool(x.trainer.max_epochs)
