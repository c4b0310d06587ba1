"""What an experiment would cost and what its comparison could see, before any weight is loaded.

Of the operations of one forward pass (`lab.costs.counting`) a training step takes

    language model twice as many: there is no gradient of frozen weights; a third time with gradient checkpointing
    whole parts    once more, for the gradient of their weights (`lora.full`)
    head           twice, for the answer's rows
    adapters       three times (forward, and both gradients), as added modules
    tower          once while it is frozen, as the language model if an adapter sits in it; none where its features are cached

Memory is weights, what trains with float32 gradient and the optimizer's state, and what a step keeps for its backward, which decides
whether gradient checkpointing is on where `trainer.gradient_checkpointing` is null.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import conditioning, data, lora, model, vision_tokens
from lab.config import Experiment, ModelDial, Optim, TrainerSection, augments, trains
from lab.costs.counting import CostModel, Kept
from lab.costs.estimate import Counts
from lab.costs.shares import gathered_bytes
from lab.data.images import size_of
from lab.errors import ConfigError
from lab.model import labels, precision
from lab.model.assembled.draft import draft
from lab.model.encoding import Encoder
from lab.model.tying import untie
from lab.records import ExampleSize, Medium, Picture, Sample

if TYPE_CHECKING:
    from transformers import PretrainedConfig, ProcessorMixin

    from lab.model.architecture import Architecture, Grid

PUBLISHED = Path(__file__).with_name("published.json")
"""Sizes of some checkpoints by their hub ids, of their config.json there: a plan needs no hub."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = 4.0
"""Bytes of a trainable parameter, and of its gradient."""
ANSWER_ROWS = 3
"""Positions of an example whose logits a step computes: an answer of one token, the end of its turn, and the one before them."""
FILLS = 0.9
"""Share of a device's memory that a step may plan with: the rest is the driver's, the allocator's gaps, and what we do not count."""


@dataclass(frozen=True)
class Plan:
    """An experiment's size. tokens: positions of the language model; image_tokens: of one image; FLOPs of one example; bytes.

    adapter_bytes: of all that trains. recomputes: with gradient checkpointing. plain_bytes: what activations would take without it.
    cache_bytes: of keys and values while one answer is written. counts: of which a machine's time follows. shares: devices on which weights and
    what trains lie in equal parts. gathered_bytes: what of it a device holds whole at once.
    """

    ledger: list[lora.LedgerRow]
    tokens: int
    image_tokens: int
    train_flops: float
    eval_flops: float
    weight_bytes: float
    adapter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float
    activation_bytes: float
    plain_bytes: float
    cache_bytes: float
    recomputes: bool
    counts: Counts
    shares: int
    gathered_bytes: float

    @property
    def memory_bytes(self) -> float:
        """Everything that training keeps on a device; of a model in shares no less than all weights, which lie on it whole before and after."""
        fixed = self.weight_bytes + self.adapter_bytes + self.gradient_bytes + self.optimizer_bytes
        step = fixed / self.shares + self.gathered_bytes + self.activation_bytes
        return step if self.shares == 1 else max(step, self.weight_bytes + self.adapter_bytes)

    @property
    def inference_bytes(self) -> float:
        """Everything that writing one answer keeps there."""
        return self.weight_bytes + self.adapter_bytes + self.cache_bytes


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


@dataclass(frozen=True)
class Trees:
    """Questions that share the reading of their images (`trainer.layout=trees`). number: of a tree. own: tokens that each has of its own."""

    number: int
    own: int

    def laid_out(self, size: ExampleSize) -> ExampleSize:
        """A tree of questions of this size."""
        return replace(size, length=size.length + (self.number - 1) * min(self.own, size.length), rows=self.number * size.rows)


ALONE = Trees(1, 0)


def plan(
    x: Experiment, tokens_per_image: int, images: int, text_tokens: int, memory: float = math.inf, trees: Trees = ALONE
) -> Plan:
    """Count parameters, FLOPs and bytes of an experiment whose examples have so many images and tokens.

    memory: bytes of a device, which decide whether gradient checkpointing is needed. trees: as which examples are learned from.
    """
    vlm = on_meta(x)
    images_of, config = vlm.family.architecture, vlm.bare.config
    size = images_of.planned_size(config, text_tokens, images, tokens_per_image)
    if vlm.reducer is not None:
        tokens = tuple(vlm.reducer.count(*images_of.merged(config, grid)) for grid in size.grids)
        size = replace(size, length=text_tokens + sum(tokens), tokens=tokens)
    if vlm.conditioner is not None and not vlm.conditioner.prefix:
        size = replace(size, length=text_tokens)
    saved = saved_bytes(x.model, vlm)
    costs = CostModel(vlm, x.lora)
    ledger = costs.ledger
    trainable = sum(row.trainable for row in ledger)
    weights = sum(row.total - row.trainable for row in ledger) + lora.full_parameters(vlm, x.lora)  # the base's own stay for the next arm
    weight_bytes = float(weights * BYTES[x.model.dtype.value]) - saved + norm_bytes(x.model, vlm)
    learned = trees.laid_out(replace(size, rows=ANSWER_ROWS))
    step = costs.cost(learned)
    kept = Kept(*(each / trees.number for each in vars(step.kept).values()))
    trained = float(trainable) if trains(x) else 0.0
    gathered = gathered_bytes(vlm, x.lora) if x.trainer.sharded else 0.0
    on = recomputes(x.trainer, (weight_bytes + trainable_bytes(x.optim) * trained) / x.trainer.shares + gathered, kept, memory)
    passes, asked = passes_of(x, ledger, on), costs.cost(size)
    timed = CostModel(on_meta(x, "sdpa"), x.lora) if "sdpa" in vlm.family.attention else costs  # as devices compute it
    return Plan(
        ledger=ledger,
        tokens=size.length,
        image_tokens=size.tokens[0] if size.tokens else 0,
        train_flops=float(sum(passes[part] * number for part, number in step.flops.items())) / trees.number if trains(x) else 0.0,
        eval_flops=float(sum(asked.flops.values())),
        weight_bytes=weight_bytes,
        adapter_bytes=FLOAT32 * trained,
        gradient_bytes=FLOAT32 * trained,
        optimizer_bytes=state_bytes(x.optim) * trained,
        activation_bytes=activation_bytes(x.trainer, kept, on) if trains(x) else 0.0,
        plain_bytes=activation_bytes(x.trainer, kept, False) if trains(x) else 0.0,
        cache_bytes=cache_bytes(config, size.length + x.evaluation.most_tokens(data.named(data.lead(x.data).name).kind), BYTES[x.model.dtype.value]),
        recomputes=on,
        counts=Counts(timed.cost(learned).work, timed.cost(size).work, passes, trained, tensors_of(ledger), on, trees.number),
        shares=x.trainer.shares,
        gathered_bytes=gathered,
    )


def tensors_of(ledger: list[lora.LedgerRow]) -> int:
    """How many tensors train: two matrices in every layer that is adapted."""
    return 2 * sum(len(row.modules) for row in ledger)


def passes_of(x: Experiment, ledger: list[lora.LedgerRow], recomputing: bool) -> dict[str, float]:
    """How many forwards' operations a training step takes in each part; see above."""
    trained_tower = any(row.trainable for row in ledger if row.part in ("vision", "projector"))
    passes = {"llm": 3 if recomputing else 2, "head": 2, "adapters": 3, "added": 3}
    passes |= dict.fromkeys(("vision", "projector"), passes["llm"] if trained_tower else 0 if x.trainer.feature_cache and not augments(x) else 1)
    whole = {"head": {"llm", "head"}} | {part: {part} for part in ("vision", "projector", "llm")}
    return {**passes, **{part: passes[part] + 1 for part, names in whole.items() if names & set(x.lora.full)}}


def trainable_bytes(optim: Optim) -> float:
    """Bytes of a number that trains: itself, its gradient, and the optimizer's state."""
    return 2 * FLOAT32 + state_bytes(optim)


def state_bytes(optim: Optim) -> float:
    """Bytes of an optimizer's state for each number that trains, small tensors of 8-bit ones left out."""
    momentum = optim.optimizer_kwargs.get("momentum")
    match optim.optimizer:
        case "SGD":
            return 4.0 if momentum else 0.0
        case "AdamW8bit" | "PagedAdamW8bit":
            return 2.0 * (1.0 + 4.0 / 256)  # a float32 scale for 256 numbers
        case "Adagrad":
            return 4.0
        case "RMSprop":
            return 4.0 + (4.0 if momentum else 0.0) + (4.0 if optim.optimizer_kwargs.get("centered") else 0.0)
        case "Adafactor":
            return 0.0  # rows and columns of a matrix
        case _:
            return 12.0 if optim.optimizer_kwargs.get("amsgrad") else 8.0


def cache_bytes(config: PretrainedConfig, length: int, size: int) -> float:
    """Bytes of keys and values of so many positions, numbers of so many bytes."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2.0 * text.num_hidden_layers * heads * width * length * size


def saved_bytes(dial: ModelDial, vlm: model.Vlm) -> float:
    """Bytes that quantisation takes from the weights of a model without adapters: it is the language model's blocks that are quantised."""
    size = precision.bytes_a_weight(dial)
    if size is None:
        return 0.0
    block = re.compile(vlm.family.parts["llm"].block + r"\.")
    weights = sum(math.prod(lora.features(each)) for name, each in vlm.bare.named_modules() if block.match(name) and lora.is_linear(each))
    return weights * (BYTES[dial.dtype.value] - size)


def norm_bytes(dial: ModelDial, vlm: model.Vlm) -> float:
    """Bytes that `model.fp32_layernorms` adds."""
    norms = [module for module in vlm.bare.modules() if dial.fp32_layernorms and precision.is_norm(module)]
    return sum(parameter.numel() for norm in norms for parameter in norm.parameters()) * (FLOAT32 - BYTES[dial.dtype.value])


def activation_bytes(section: TrainerSection, kept: Kept, recomputing: bool) -> float:
    """Bytes that one forward on one device keeps for its backward. kept: of one example."""
    return section.batch_size // section.devices * (kept.checkpointed if recomputing else kept.plain)


def recomputes(section: TrainerSection, fixed: float, kept: Kept, memory: float) -> bool:
    """Whether a training runs with gradient checkpointing: as asked, else where a step would not fit without.

    fixed: bytes of weights and of all that belongs to adapters. memory: bytes of the device.
    """
    asked = section.gradient_checkpointing
    return fixed + activation_bytes(section, kept, False) > FILLS * memory if asked is None else asked

