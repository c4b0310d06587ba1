"""The schema of all experiments. Light: nothing here imports torch, transformers, lightning, peft or mlflow.

A module for each dial (`model data lora prompt vision_tokens conditioning`) and for each section that is held still
(`optim trainer evaluation endpoint sweep tracking`), with its dataclass; `experiment` puts them together. YAML in `conf/` holds values for
these fields and nothing else. `lab.freezing` turns a composed config into an `Experiment`; `identity` names the run that it trains,
`asked` what is measured of it, and `roles` says for each key which of the two it belongs to.
"""

from lab.config.conditioning import ConditioningDial
from lab.config.data import Augment, DataDial, OnBad, VideoSampling
from lab.config.endpoint import ENDPOINT, Endpoint, Prices
from lab.config.evaluation import MOST_TOKENS, EvaluationSection
from lab.config.experiment import DIALS, RECIPE, Experiment, adds_modules, augments, trains
from lab.config.lora import PARTS, LoraDial
from lab.config.missing import MISSING
from lab.config.model import DType, ModelDial, ProjectorInit, Quantisation
from lab.config.optim import Optim, Schedule
from lab.config.prompt import ImageOrder, PromptDial
from lab.config.roles import ASKED, NEITHER, ROLES, TRAINED, role
from lab.config.run_identity import also_asked, asked, identity, identity_values, name_of_option
from lab.config.sweep import MatchOn, RaceMode, RaceSection, SweepSection
from lab.config.tracking import AlsoTracked, Tracking
from lab.config.trainer import IfFinished, IfUnfinished, TrainerSection
from lab.config.values import ADDRESSES, as_dict, differing, flat
from lab.config.vision_tokens import PruneRule, VisionTokensDial

__all__ = [
    "ADDRESSES", "ASKED", "AlsoTracked", "Augment", "ConditioningDial", "DIALS", "DType", "DataDial", "ENDPOINT", "Endpoint",
    "EvaluationSection", "Experiment", "IfFinished", "IfUnfinished", "ImageOrder", "LoraDial", "MISSING", "MOST_TOKENS",
    "MatchOn", "ModelDial", "NEITHER", "OnBad", "Optim", "PARTS", "Prices", "ProjectorInit", "PromptDial", "PruneRule",
    "Quantisation", "RECIPE", "ROLES", "RaceMode", "RaceSection", "Schedule", "SweepSection", "TRAINED", "Tracking",
    "TrainerSection", "VideoSampling", "VisionTokensDial", "adds_modules", "also_asked", "as_dict", "asked", "augments",
    "differing", "flat", "identity", "identity_values", "name_of_option", "role", "trains",
]  # fmt: skip
