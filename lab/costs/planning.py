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

import math
from collections import Counter
from dataclasses import dataclass, replace

from lab import data, lora
from lab.config import Experiment, augments, trains
from lab.costs.counting import CostModel, Kept
from lab.costs.device_memory import (
    BYTES,
    FLOAT32,
    activation_bytes,
    cache_bytes,
    norm_bytes,
    recomputes,
    saved_bytes,
    state_bytes,
    trainable_bytes,
)
from lab.costs.estimate import Counts
from lab.costs.operations import CALLS, WEIGHTS, Work
from lab.costs.shared_reading import shared_reading
from lab.costs.shares import gathered_bytes
from lab.costs.without_weights import on_meta
from lab.records import ExampleSize

ANSWER_ROWS = 3
"""Positions of an example whose logits a step computes: an answer of one token, the end of its turn, and the one before them."""


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


@dataclass(frozen=True)
class Trees:
    """Questions that share the reading of their images (`trainer.layout=trees`). number: of a tree. own: tokens that each has of its own."""

    number: int
    own: int

    def laid_out(self, size: ExampleSize) -> ExampleSize:
        """A tree of questions of this size."""
        return replace(size, length=size.length + (self.number - 1) * min(self.own, size.length), rows=self.number * size.rows)


ALONE = Trees(1, 0)


@dataclass(frozen=True)
class SharedPrefix:
    """Questions that are answered over one reading of their images (`evaluation.shared_prefix`). number: about one set of images, mean. own:
    tokens that each has behind its last image.
    """

    number: float
    own: int


def plan(
    x: Experiment, tokens_per_image: int, images: int, text_tokens: int, memory: float = math.inf, trees: Trees = ALONE,
    asked: SharedPrefix | None = None,
) -> Plan:  # fmt: skip
    """Count parameters, FLOPs and bytes of an experiment whose examples have so many images and tokens.

    memory: bytes of a device, which decide whether gradient checkpointing is needed. trees: as which examples are learned from.
    asked: as which they are answered; None: each alone.
    """
    vlm = on_meta(x)
    images_of, config = vlm.family.architecture, vlm.base_model.config
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
    passes = passes_of(x, ledger, on)
    timed = CostModel(on_meta(x, "sdpa"), x.lora) if "sdpa" in vlm.family.attention else costs  # as devices compute it
    shared = None if asked is None else shared_reading(timed, size, asked.own, asked.number)
    return Plan(
        ledger=ledger,
        tokens=size.length,
        image_tokens=size.tokens[0] if size.tokens else 0,
        train_flops=float(sum(passes[part] * number for part, number in step.flops.items())) / trees.number if trains(x) else 0.0,
        eval_flops=float(costs.cost(size).flops.total()) if shared is None else shared.flops,
        weight_bytes=weight_bytes,
        adapter_bytes=FLOAT32 * trained,
        gradient_bytes=FLOAT32 * trained,
        optimizer_bytes=state_bytes(x.optim) * trained,
        activation_bytes=activation_bytes(x.trainer, kept, on) if trains(x) else 0.0,
        plain_bytes=activation_bytes(x.trainer, kept, False) if trains(x) else 0.0,
        cache_bytes=cache_bytes(config, size.length + x.evaluation.most_tokens(data.named(data.lead(x.data).name).kind), BYTES[x.model.dtype.value]),
        recomputes=on,
        counts=Counts(
            timed.cost(learned).work, timed.cost(size).work, unread(timed, learned), passes, trained, tensors_of(ledger), on, trees.number, shared
        ),
        shares=x.trainer.shares,
        gathered_bytes=gathered,
    )


def unread(model: CostModel, size: ExampleSize) -> Work:
    """Of the work of an example what a step of `lab.training.fast` leaves out: of the last block queries, and all behind them, of rows that
    predict nothing; of blocks of Llama's kind.
    """
    vlm, _ = model.given
    if not vlm.family.offers("fast_step"):
        return Counter()
    config = vlm.base_model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = 2 * config.num_key_value_heads
    whole = keys + 2 * config.num_attention_heads + 3 * config.intermediate_size / width
    share = (1 - keys / whole) * (1 - min(1.0, size.rows / size.length))
    return Counter({key: share * number for key, number in model.cost(size).last_block.items() if key[1] not in (CALLS, WEIGHTS)})


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
