"""The dial `model`: which checkpoint, and how its weights are held."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lab.config.missing import MISSING


class DType(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantisation(Enum):
    none = "none"
    int8 = "int8"
    nf4 = "nf4"


class ProjectorInit(Enum):
    """How the projector of an assembled model begins: drawn anew, or the first output rows of the tower's own."""

    random = "random"
    crop = "crop"


@dataclass
class ModelDial:
    """Which checkpoint: a folder shipped in `lab/model/`, a local folder, or a hub id; and how its weights are held.

    path: None: the user's own; the option's file says of what kind. attn_implementation: None: the family's own. device_map: how
    accelerate shares one model out among the GPUs of this machine; None: it lies on one. untied_head: the output head gets a copy of
    weights that it shares with the embedding of tokens.
    quantisation: the language model's linear layers through bitsandbytes, int8 (Dettmers et al. 2022, 2208.07339) or
    nf4 (Dettmers et al. 2023, 2305.14314); of a checkpoint that holds them so already, what it holds.
    start: a run whose weights the arm begins with in place of the base's (`lab.starting`), by name or folder.
    labels: of a family that chooses among labels, answers in place of its checkpoint's; its head then begins with nothing about them.
    vision_from, llm_from: in place of path, of `assembled`: a tower and a language model that are put together (`lab.model.assembled`),
    each a folder or a hub id. family: auto: by the tower, which `lab.freezing` writes down. projector_init: how what stands between
    them begins. vision_feature_layer: of family=llava, the block of the tower whose output is read, counted from the end.
    """

    name: str = MISSING
    family: str = MISSING
    path: str | None = None
    revision: str | None = None
    dtype: DType = DType.float32
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    quantisation: Quantisation = Quantisation.none
    double_quantisation: bool = True
    fp32_layernorms: bool = False
    labels: list[str] | None = None
    device_map: str | None = None
    untied_head: bool = False
    start: str | None = None
    vision_from: str | None = None
    llm_from: str | None = None
    projector_init: ProjectorInit = ProjectorInit.random
    vision_feature_layer: int = -2
