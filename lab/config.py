"""The schema of all experiments. Light: nothing here imports torch, transformers, lightning, peft or mlflow.

One dataclass per dial (`model data lora prompt vision_tokens conditioning`), then what is held still
(`optim trainer evaluation sweep race tracking`). YAML in `conf/` holds values for these fields and nothing else.
`lab.freezing` turns a composed config into an `Experiment`; `identity` names the run that it trains, `asked` what is measured of it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from lab.host.files import values_hash
from lab.host.redaction import without_secrets

MISSING: Any = "???"
"""OmegaConf's mark of a value that must be given. Its own constant is not imported, which takes as long as all of `--help`."""
DIALS = ("model", "data", "lora", "prompt", "vision_tokens", "conditioning")
RECIPE = "recipe"
"""The group of `conf/` that is no dial: values over all of them, of which a run knows nothing but the values."""
PARTS = ("vision", "projector", "llm")


class DType(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantisation(Enum):
    none = "none"
    int8 = "int8"
    nf4 = "nf4"


class OnBad(Enum):
    fail = "fail"
    skip = "skip"


class ProjectorInit(Enum):
    """How the projector of an assembled model begins: drawn anew, or the first output rows of the tower's own."""

    random = "random"
    crop = "crop"


class PruneRule(Enum):
    deviation = "deviation"
    norm = "norm"
    diverse = "diverse"


class ImageOrder(Enum):
    fixed = "fixed"
    swap = "swap"
    random = "random"


class Schedule(Enum):
    """Transformers' `lr_scheduler_type`, as far as it follows the step alone, and `steps`, torch's MultiStepLR."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    steps = "steps"
    constant_with_warmup = "constant_with_warmup"
    cosine_with_restarts = "cosine_with_restarts"
    cosine_with_min_lr = "cosine_with_min_lr"
    polynomial = "polynomial"
    inverse_sqrt = "inverse_sqrt"
    warmup_stable_decay = "warmup_stable_decay"


class IfFinished(Enum):
    reuse = "reuse"
    again = "again"


class IfUnfinished(Enum):
    """What to do with a run that was stopped or failed before its end."""

    resume = "resume"
    restart = "restart"


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


@dataclass
class Augment:
    """What becomes at random of a training picture and its boxes, another in every epoch (`lab.training.augmentation`).

    crop: least share of the picture's area that is kept, 1: all of it. scale: least and most factor on its sides. flip: probability of a
    mirrored picture. colour: most change of brightness, contrast and saturation. min_area: least share of a box's area that a crop must
    leave of it, or the box goes with its label.
    """

    crop: float = 1.0
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    flip: float = 0.0
    colour: float = 0.0
    min_area: float = 0.5


@dataclass
class VideoSampling:
    """Which frames of a clip are shown, and how large (`lab.records.Sampling`).

    fps: so many frames a second; num_frames: so many in all; both None: 2 a second. min_frames, max_frames: bounds of what fps gives.
    max_pixels: the video processor's budget, of each frame for Qwen2-VL and Qwen2.5-VL, of all frames together for Qwen3-VL; None: the
    checkpoint's.
    """

    fps: float | None = None
    num_frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768
    max_pixels: int | None = None


@dataclass
class DataDial:
    """Which questions. Sizes are numbers of them; None means all there are. rule: how a benchmark scores its answers.

    path, columns, kind, answer_format, allow_shared_images: of `questions`, a file of one's own (`lab.data.sets.questions`). sha256: of that
    file; None: as it is now, which `lab.freezing` writes down, so that a changed file is another run. subset, split, profile: of benchmarks
    (`lab.data.benchmarks.specs`): which questions, and by whose rule replies are marked. question, exif, empty, aliases: of
    `boxes`, a file of boxes (`lab.data.sets.boxes`). parts: of `mixture`, data options in one text each (`lab.data.Option`). max_length:
    most tokens of prompt and answer together, of a sample of train;
    a conversation loses its last turns until it fits. order, questions_per_image: by_image: at most so many questions of one picture, or of
    the same pictures, follow each other in training, as blocks in an order drawn anew each epoch.
    """

    name: str = MISSING
    root: str | None = None
    source: str | None = None
    seed: int = 0
    num_train: int | None = None
    num_minival: int | None = None
    num_dev: int | None = None
    on_bad: OnBad = OnBad.fail
    difficulty: str | None = None
    image_layout: str | None = None
    permutations: int | None = None
    rule: str | None = None
    subset: str | None = None
    split: str | None = None
    profile: str | None = None
    path: str | None = None
    sha256: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    kind: str | None = None
    answer_format: str | None = None
    allow_shared_images: bool = False
    question: str | None = None
    exif: str | None = None
    empty: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    max_length: int | None = None
    order: str = "random"
    questions_per_image: int = 4
    augment: Augment = field(default_factory=Augment)
    video: VideoSampling = field(default_factory=VideoSampling)
    sources: list[Any] = field(default_factory=list)
    loss_on: str = "every"


@dataclass
class LoraDial:
    """What may change: LoRA (Hu et al. 2021, 2106.09685), in PEFT's names. `r=0` attaches nothing.

    trainable_parameters: instead of r, so that arms match: the largest rank that keeps to so many, modules that
        other dials add counted in. use_dora: Liu et al. 2024, 2402.09353. use_rslora: Kalajdzievski 2023, 2312.03732.
    top_k_blocks: of every part in `where` that has blocks, only the last k; None: all of them. full: parts (`PARTS`, or a head of a
    task, `Family.whole`) of which every weight trains, kept in float32, beside adapters or without any; none gets an adapter too.
    """

    name: str = MISSING
    r: int = 16
    trainable_parameters: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    where: list[str] = field(default_factory=lambda: ["llm"])
    target_modules: str = "all-linear"
    top_k_blocks: int | None = None
    use_dora: bool = False
    use_rslora: bool = False
    init_lora_weights: str = "default"
    full: list[str] = field(default_factory=list)


@dataclass
class PromptDial:
    """How the question is put, and how a written answer is read.

    template: holds `{statement}` once where data state something, or `{question}` where they ask. answer_true, answer_false: the words
    of a True/False question; any other options are their own words. post: of written answers, a rule of `lab.answers.normalise`.
    boxes: how a box is written, a format of `lab.answers.box_formats`; None: as the model's family learned it.
    """

    name: str = MISSING
    version: int = 1
    system: str | None = None
    template: str = MISSING
    template_file: str | None = None
    separator: str = "\n"
    answer_true: str = "True"
    answer_false: str = "False"
    numbered: bool = False
    image_order: ImageOrder = ImageOrder.fixed
    post: str = "none"
    boxes: str | None = None

    @property
    def words(self) -> dict[str, str]:
        """How the options of a True/False question are written, by key."""
        return {"prompt.answer_true": self.answer_true, "prompt.answer_false": self.answer_false}


@dataclass
class VisionTokensDial:
    """How many tokens one image costs the language model.

    budget: most tokens of one image; the resampler makes exactly that many.
    rule: which tokens `prune` keeps. width, heads: of the resampler's attention; width None: the model's hidden size.
    """

    name: str = MISSING
    budget: int | None = None
    rule: PruneRule | None = None
    width: int | None = None
    heads: int | None = None


@dataclass
class ConditioningDial:
    """Where the image enters the language model: in the prompt, or by cross-attention in some of its blocks.

    All keys are of `cross_attention`; `add_cross_attention` is what a checkpoint has, with nothing to choose.
    every, layers: every k-th block, or those with the numbers listed (from 0). parallel: beside self-attention instead of
    before the block. keep_prefix: image tokens stand in the prompt too. width, heads: of the cross-attention; width None:
    the model's hidden size.
    """

    name: str = MISSING
    every: int | None = None
    layers: list[int] | None = None
    parallel: bool = False
    keep_prefix: bool = True
    width: int | None = None
    heads: int | None = None


@dataclass
class Optim:
    """One of torch's or bitsandbytes' optimizers, by its name there, on the trainable parameters.

    lr_vision, lr_projector, lr_llm, lr_extras: the rate in that part, or in modules that other dials add and in a whole head; None: `lr`.
    lr_b_ratio: B matrices learn this many times faster than their A; LoRA+ (Hayou et al. 2024, 2402.12354).
    warmup_steps: optimizer steps of the warm-up, in place of `warmup_fraction`, a share of all.
    milestones: passes over data.train after each of which `schedule=steps` multiplies the rate by `gamma`.
    optimizer_kwargs, schedule_kwargs: further arguments of the optimizer, and of Transformers' schedule.
    """

    lr: float = 2e-4
    lr_vision: float | None = None
    lr_projector: float | None = None
    lr_llm: float | None = None
    lr_extras: float | None = None
    lr_b_ratio: float = 1.0
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    warmup_fraction: float = 0.05
    warmup_steps: int | None = None
    schedule: Schedule = Schedule.cosine
    schedule_kwargs: dict[str, Any] = field(default_factory=dict)
    milestones: list[float] = field(default_factory=lambda: [1.0])
    gamma: float = 0.1
    optimizer: str = "AdamW"
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainerSection:
    """The training loop. Exactly one of `max_steps` (optimizer steps) and `max_epochs` is given.

    batch_size: samples per forward, of all devices together. devices: processes that train one arm, one GPU or core each.
    save_every: optimizer steps between checkpoints. max_time: HH:MM:SS from the command's start, for all of it.
    restore_best: the weights of the best look at minival, by nll, are kept instead of the last.
    gradient_checkpointing: None: on where a step would not fit into memory without it (`lab.training.capacity`).
    packing: the samples of a forward stand one after another in one row, without padding; equal to rounding.
    layout: how the samples of a forward are laid out, which moves rounding alone: a row each, or as trees of those with the same images,
    several to a row of at most `token_budget` tokens (`lab.model.trees`); auto: as trees where that is exact and saves enough.
    log_every: optimizer steps between two rows of `curves.jsonl`.
    strategy: of several devices; ddp: each has all, as auto; fsdp: weights, gradients and optimizer state lie in shares (`lab.training.sharding`).
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    batch_size: int = 16
    accumulate_grad_batches: int = 1
    gradient_clip_val: float = 1.0
    val_every: int | None = None
    log_every: int = 10
    patience: int | None = None
    gradient_checkpointing: bool | None = None
    packing: bool = False
    layout: str = "rows"
    token_budget: int | None = 1024
    feature_cache: bool = True
    num_workers: int = 0
    threads: int = 1
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    if_finished: IfFinished = IfFinished.reuse
    if_unfinished: IfUnfinished = IfUnfinished.resume
    save_every: int | None = 100
    keep_checkpoints: int = 2
    restore_best: bool = False
    max_time: str | None = None

    @property
    def sharded(self) -> bool:
        """Whether what trains lies in shares on the devices."""
        return self.strategy == "fsdp"

    @property
    def shares(self) -> int:
        """Devices on which weights and what trains lie in equal parts."""
        return self.devices if self.sharded else 1

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimizer step."""
        return self.batch_size * self.accumulate_grad_batches


ENDPOINT = "endpoint"
"""The family of `model=endpoint`: a model behind a server, whose weights are not here."""

MOST_TOKENS = {"text": 16, "regions": 512}
"""`evaluation.max_new_tokens` where it is None, by kind of answer."""


@dataclass
class Prices:
    """Money for a million tokens, in the currency of the budget beside them."""

    input_per_million: float | None = None
    output_per_million: float | None = None


@dataclass
class Endpoint:
    """A model behind the OpenAI protocol, `POST base_url/chat/completions`. base_url None: none is asked.

    api_key_env: name of the environment variable that holds the key; None: no key is sent. workers: requests at the same time.
    budget: money, by `prices`, that all requests ever noted in one store may cost.
    """

    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    workers: int = 8
    budget: float | None = None
    prices: Prices = field(default_factory=Prices)


@dataclass
class EvaluationSection:
    """What is measured after training. Batch size and repeats never change a score, only its cost.

    ask: ways to answer dev, the first for the record; generate is held against it. also: other data options whose dev is asked, each
    with its own keys behind it (`lab.data.Option`). also_root: a folder with one for each benchmark among them, by its name; max_samples: of
    each at most so many questions, drawn by seed, the same for every arm; `lab.freezing` writes both into `also`.
    max_new_tokens: of an answer of the run's own kind, and of words beside a choice; None, and of others: `MOST_TOKENS`.
    repair: boxes with swapped corners or beyond the picture are mended before they are kept, as they are not by default.
    zero_shot: the base itself answers dev, once for all arms over it; None: where the data set says so.
    judge: a language model that marks replies to benchmarks beside the exact rule (`lab.judge`).
    shared_prefix: questions about the same images share what the model made of them; scores agree to rounding, not to the bit.
    """

    batch_size: int = 64
    shared_prefix: bool = False
    bootstrap: int = 2000
    latency_warmup: int = 5
    latency_examples: int = 50
    ask: list[str] = field(default_factory=lambda: ["score"])
    max_new_tokens: int | None = None
    repair: bool = False
    splits: list[str] = field(default_factory=lambda: ["minival", "dev"])
    also: list[str] = field(default_factory=list)
    also_root: str | None = None
    max_samples: int | None = None
    controls: list[str] = field(default_factory=list)
    swap: bool = False
    zero_shot: bool | None = None
    verify: bool = True
    probe_examples: int = 8
    judge: Endpoint = field(default_factory=Endpoint)

    def most_tokens(self, kind: str | None) -> int:
        """Tokens that a written answer may have, by kind; None: not known."""
        return self.max_new_tokens or MOST_TOKENS.get(kind or "text", MOST_TOKENS["text"])


class MatchOn(Enum):
    samples = "samples"
    order = "order"
    tokens = "tokens"
    parameters = "parameters"
    flops = "flops"


class RaceMode(Enum):
    """What a sweep does with arms that a race may stop: tell which they would have been, or stop them."""

    watch = "watch"
    stop = "stop"


@dataclass
class SweepSection:
    """What the arms of a sweep must have in common (`lab.report.matching`); a sweep that breaks it stops before training.

    self_check: the first steps of one arm are repeated over a base loaded anew, and the difference is printed.
    replicates: every arm so many times, with seeds `seed`, `seed` + 1, ...: what differs between them is noise.
    clone: a run whose config is taken, but for the keys that the command gives (`lab.cloning`).
    race: arms are stopped early, by the rule of `race`.
    """

    require: list[MatchOn] = field(default_factory=list)
    self_check: bool = True
    replicates: int = 1
    clone: str | None = None
    race: RaceMode | None = None


@dataclass
class RaceSection:
    """How a race decides (`lab.statistics.race`); read where `sweep.race` says so.

    rungs: shares of `trainer.max_steps` after which minival is asked and arms may be stopped. alpha: probability, over all rungs, of
    stopping an arm that leads all others by more than `indifference`, a share of right answers. pace: by rung, the share of the arms
    at the start among whose best none is stopped. budget: share of the steps of all arms that may be taken; arms are then stopped by
    rank alone, a heuristic without an error rate.
    """

    rungs: list[float] = field(default_factory=lambda: [0.25, 0.5])
    alpha: float = 0.05
    indifference: float = 0.01
    pace: list[float] = field(default_factory=lambda: [0.6, 0.2])
    budget: float | None = None


class AlsoTracked(Enum):
    wandb = "wandb"


@dataclass
class Tracking:
    """Where runs are kept, and the MLflow server they are shown in (None: MLFLOW_TRACKING_URI, else a local file).

    also: other trackers that get every run, once it has ended.
    """

    runs_dir: str = "runs"
    cache_dir: str = "cache"
    cache_gb: float = 100.0
    experiment: str = "lab"
    uri: str | None = None
    also: list[AlsoTracked] = field(default_factory=list)
    enabled: bool = True


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


TRAINED, ASKED, NEITHER = "trained", "asked", "neither"
ROLES: dict[str, str] = {
    **dict.fromkeys(("model", "lora", "vision_tokens", "conditioning", "optim", "seed"), TRAINED),
    **dict.fromkeys((
        *(f"prompt.{key.name}" for key in dataclasses.fields(PromptDial) if key.name != "post"),
        "data.name", "data.root", "data.source", "data.seed", "data.num_train", "data.num_minival", "data.on_bad", "data.difficulty",
        "data.image_layout", "data.permutations", "data.path", "data.sha256", "data.columns", "data.kind", "data.answer_format",
        "data.allow_shared_images", "data.subset", "data.split", "data.question", "data.exif", "data.empty", "data.aliases", "data.max_length",
        "data.sources", "data.parts", "data.loss_on", "data.order", "data.questions_per_image",
        *(f"data.augment.{key.name}" for key in dataclasses.fields(Augment)),
        *(f"data.video.{key.name}" for key in dataclasses.fields(VideoSampling)),
        "trainer.max_steps", "trainer.max_epochs", "trainer.batch_size", "trainer.accumulate_grad_batches", "trainer.gradient_clip_val",
        "trainer.val_every", "trainer.patience",
        "trainer.gradient_checkpointing", "trainer.packing", "trainer.restore_best", "endpoint.base_url", "endpoint.model",
    ), TRAINED),
    **dict.fromkeys((
        "prompt.post", "data.num_dev", "data.rule", "evaluation.ask", "evaluation.max_new_tokens", "evaluation.repair",
        "evaluation.splits", "evaluation.also", "evaluation.controls", "evaluation.swap",
        "evaluation.shared_prefix", "evaluation.zero_shot",
    ), ASKED),
    **dict.fromkeys((
        "model.device_map", "data.profile",
        "trainer.layout", "trainer.token_budget", "trainer.strategy",
        "trainer.num_workers", "trainer.threads", "trainer.accelerator", "trainer.devices", "trainer.feature_cache", "trainer.if_finished",
        "trainer.if_unfinished", "trainer.log_every", "trainer.save_every", "trainer.keep_checkpoints", "trainer.max_time", "evaluation.batch_size",
        "evaluation.also_root", "evaluation.max_samples",
        "evaluation.bootstrap", "evaluation.latency_warmup", "evaluation.latency_examples", "evaluation.verify",
        "evaluation.probe_examples", "evaluation.judge", "endpoint", "sweep", "race", "tracking", "plugins",
    ), NEITHER),
}  # fmt: skip
"""What each key, or each key of a section, says of a run: what made its weights, what was measured of them, or neither."""


def role(key: str) -> str:
    """The role of a dotted key; a key that is none of this schema, of an earlier version's record, has none."""
    while key not in ROLES and "." in key:
        key = key.rpartition(".")[0]
    return ROLES.get(key, NEITHER)


NAMELESS = (
    *(f"data.augment.{key.name}" for key in dataclasses.fields(Augment)),
    *(f"data.video.{key.name}" for key in dataclasses.fields(VideoSampling)),
    "data.path", "data.sha256", "data.kind", "data.answer_format", "data.allow_shared_images", "data.question", "data.exif",
    "data.subset", "data.split", "data.empty", "data.max_length", "data.sources", "data.parts", "data.loss_on", "data.order",
    "data.questions_per_image", "optim.milestones",
    "optim.gamma", "optim.optimizer", "optim.warmup_steps", "model.untied_head", "model.labels", "model.start",
    "lora.full", "optim.lr_llm", "prompt.boxes",
    "trainer.packing",
    "model.vision_from", "model.llm_from", "model.projector_init", "model.vision_feature_layer", "endpoint.base_url", "endpoint.model",
)  # fmt: skip
"""Keys that are younger than runs of the others, whose names they leave as they are while nobody sets them."""


ADDRESSES = (
    ("tracking", "uri"), ("model", "path"), ("model", "vision_from"), ("model", "llm_from"), ("data", "root"), ("data", "path"),
    ("evaluation", "judge", "base_url"), ("endpoint", "base_url"),
)  # fmt: skip
"""Keys that may hold an address, and in it a password."""


def adds_modules(x: Experiment) -> bool:
    """Whether a dial other than `lora` adds modules that train."""
    return x.vision_tokens.name == "resampler" or x.conditioning.name == "cross_attention"


def augments(x: Experiment) -> bool:
    """Whether an epoch shows other views of the training pictures than the one before."""
    return dataclasses.replace(x.data.augment, min_area=Augment.min_area) != Augment()


def trains(x: Experiment) -> bool:
    """Whether the experiment takes any optimizer step."""
    return bool(x.trainer.max_steps) or bool(x.trainer.max_epochs)


def as_dict(x: Experiment) -> dict[str, Any]:
    """The experiment as plain JSON values: dicts, lists, strings, numbers, None. Credentials in an address are `***`."""
    values = json.loads(json.dumps(dataclasses.asdict(x), default=lambda value: value.value))
    for *sections, key in ADDRESSES:
        section = functools.reduce(lambda within, name: within[name], sections, values)
        if section[key] is not None:
            section[key] = without_secrets(section[key])
    values["data"]["parts"] = [without_secrets(option) for option in values["data"]["parts"]]
    return values


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"lora": {"r": 8}}` as `{"lora.r": 8}`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out


def differing(flats: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of flat configs whose values are not the same in all; one that a config lacks is None there."""
    keys = dict.fromkeys(key for values in flats for key in values)
    return [key for key in keys if len({repr(values.get(key)) for values in flats}) > 1]


def identity_values(values: dict[str, Any]) -> dict[str, Any]:
    """What made a run's weights, of a config: flat keys; `lora.r` is None where it follows from `lora.trainable_parameters`."""
    unset = flat(as_dict(Experiment()))
    kept = {
        key: value for key, value in flat(values).items()
        if role(key) == TRAINED and (key not in NAMELESS or (value and value != unset[key]))
    }  # fmt: skip
    if "data.order" not in kept:
        kept.pop("data.questions_per_image", None)  # a random order has no blocks
    kept |= {"model.start": Path(kept["model.start"]).name} if "model.start" in kept else {}  # wherever its folder lies
    return kept | ({} if kept.get("lora.trainable_parameters") is None else {"lora.r": None})


def identity(x: Experiment) -> str:
    """Ten hexadecimal digits that name a run: the hash of its `identity_values`.

    Two spellings of one experiment (overrides in another order, a default written out) have one identity.
    """
    return values_hash(identity_values(as_dict(x)), 10)


def asked(x: Experiment) -> dict[str, str]:
    """What is measured of a run: each thing by name, with a digest of the other keys that its answers depend on.

    post: how written answers are read, which takes no model.
    """
    section = x.evaluation
    of_dev = ("dev", *(f"dev_{control}" for control in section.controls), *section.ask[1:], *(["swap"] if section.swap else []))
    explicit = ["explicit"] if section.max_new_tokens == MOST_TOKENS["text"] else []  # which is the default of text, and of no other kind
    keys = [section.shared_prefix, section.most_tokens("text"), *explicit, *(["repair"] if section.repair else [])]
    things: dict[str, list[Any]] = dict.fromkeys(section.splits, keys)
    things |= dict.fromkeys((f"also {option}" for option in section.also), [*keys, *section.ask[1:]])
    things |= dict.fromkeys((f"part {option}" for option in x.data.parts[1:]), [*keys, section.splits])
    things |= dict.fromkeys(of_dev, [*keys, x.data.num_dev, x.data.rule]) | {"post": [x.prompt.post]}
    return {name: values_hash(keys, 10) for name, keys in things.items()}


def also_asked(x: Experiment, earlier: dict[str, Any]) -> Experiment:
    """The experiment with what was asked before of the same run (`as_dict` of it) asked too."""
    section, before = x.evaluation, earlier["evaluation"]
    lists = {key: list(dict.fromkeys([*before[key], *getattr(section, key)])) for key in ("ask", "splits", "controls")}
    now = {name_of_option(option) for option in section.also}
    lists["also"] = [*(option for option in before["also"] if name_of_option(option) not in now), *section.also]
    switches = {"swap": section.swap or before["swap"], "zero_shot": section.zero_shot or before.get("zero_shot")}
    return dataclasses.replace(x, evaluation=dataclasses.replace(section, **lists, **switches))


def name_of_option(spelled: str) -> str:
    """What the predictions of a data option are called: `as`, or its first word."""
    words = spelled.split()
    return next((word.removeprefix("as=") for word in words if word.startswith("as=")), words[0] if words else "")
