"""What can be chosen, each choice as overrides of the command line, and which choices cannot be had together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import yaml

from lab.answers.normalise import RULES
from lab.benchmark_specs import ALIASES, SPECS
from lab.cli import shipped
from lab.config import ENDPOINT, DType, IfFinished, IfUnfinished, ImageOrder, MatchOn, OnBad, PruneRule, Quantisation, Schedule
from lab.data import NAMES, named
from lab.lora import INITS

DRAWN = ("drawn_signs", "drawn_charts", "drawn_diagrams")
"""Data answered in words, drawn where they are asked for."""
Overrides = tuple[str, ...]
Row = dict[str, str]
"""A value's name for each dimension."""
Member = tuple[str, str]
"""A dimension and one of its values."""

BUDGET = 4
"""Tokens of an image: fewer than any drawn image has."""
PATTERN = "model[.]language_model[.].*q_proj|decoder[.]transformer[.].*c_attn"
HEAD = f"{PATTERN}|(decoder[.])?lm_head"
WITHOUT = ("none", "stage1", "stage2", "full")
"""Options of lora without an adapter."""
SIZES = {
    "pairs": ("data.num_train=16", "data.num_minival=4", "data.num_dev=8"),
    "nlvr": ("data.num_train=8", "data.num_minival=1", "data.num_dev=2", "data.permutations=2"),
    "nlvr2": ("data.num_train=null",),
    "winoground": ("data.num_dev=2",),
    "easy_vqa": ("data.num_train=16", "data.num_minival=4", "data.num_dev=8"),
    "questions": ("data.kind=text",),
    **{name: ("data.num_train=16", "data.num_minival=4", "data.num_dev=8") for name in DRAWN},
}
"""Few examples."""
PLACES = {"pairs": (), "easy_vqa": (), "questions": ("data.path={root}/data/questions.csv",), "abo_vqa": ("data.path={root}/data/questions.csv",)}
PLACES |= dict.fromkeys(DRAWN, ())
"""Where data lie, if not in a folder of their own."""
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FAMILIES = (*QWEN, "vit_gpt2")
"""Those that take most of what there is to choose; the others refuse much of it, and go through tests/test_{inline,vqa,reference}_families.py."""
BOXES = tuple(name for name in NAMES if named(name).kind == "regions")
"""Data answered in boxes, which refuse most of what there is to choose; they go through tests/test_boxes_run.py."""
CONVERSATIONS = tuple(name for name in NAMES if named(name).asks == "conversation")
"""Conversations, which take their own prompt alone; they and `data.loss_on` go through tests/test_conversations_data.py."""
BENCHMARKS = (*SPECS, *ALIASES)
"""Data of which nothing is learned, all read and asked by one module; they go through tests/test_benchmarks.py."""
PROMPTS_ELSEWHERE = ("conversation", "statement", "paligemma")
"""The first is of conversations; the others frame as declarative does, for models of tests/test_reference_families.py."""
MIXED = ("mixture",)
"""What is made of other data; it goes through tests/test_mixture.py."""
TEXT = tuple(name for name in NAMES if named(name).asks == "question" and name not in (*BOXES, *BENCHMARKS))
"""Data answered in words."""


WITHOUT_WEIGHTS = (ENDPOINT,)
"""Options of `model` that have no weights here, so that nothing is drawn, trained or loaded of them; tests/test_endpoint_model.py asks one."""


def options(dial: str) -> list[str]:
    """The options of a dial, as `conf/` has them, but for models without weights."""
    return sorted(path.stem for path in (shipped("conf") / dial).glob("*.yaml") if dial != "model" or path.stem not in WITHOUT_WEIGHTS)


def family_of(option: str) -> str:
    """The family of an option of `model`."""
    return yaml.safe_load((shipped("conf") / "model" / f"{option}.yaml").read_text(encoding="utf-8"))["family"]


def each(key: str, values: type[Enum] | Iterable[str]) -> dict[str, Overrides]:
    """One choice for each value of a key."""
    names = [value.value for value in values] if isinstance(values, type) else list(values)
    return {name: (f"{key}={name}",) for name in names}


def switch(key: str) -> dict[str, Overrides]:
    """Off or on."""
    return each(key, ("false", "true"))


def models() -> dict[str, Overrides]:
    """Every option of the families in the grid; the checkpoint of all but the shipped one is drawn. Not `assembled`, which is two
    checkpoints before it is one of a family that is here: tests/test_assembled.py."""
    inside = [name for name in options("model") if family_of(name) in FAMILIES]
    return {name: (f"model={name}", f"model.path={{root}}/checkpoints/{name}") for name in inside} | {"tiny": ("model=tiny",)}


def data_sets() -> dict[str, Overrides]:
    """Every option that is neither answered in boxes nor a conversation nor a mixture, and both layouts of NLVR."""
    found: dict[str, Overrides] = {}
    for name in (each for each in options("data") if each not in (*BOXES, *BENCHMARKS, *CONVERSATIONS, *MIXED)):
        found[name] = (f"data={name}", *PLACES.get(name, (f"data.root={{root}}/data/{name}",)), *SIZES.get(name, ()))
    return found | {"nlvr boxes": (*found["nlvr"], "data.image_layout=boxes")}


def adapters() -> dict[str, Overrides]:
    """Every option with a small rank, and two patterns of the user's own, one of which reaches the head."""
    found = {name: (f"lora={name}", "lora.r=4") if name not in WITHOUT else (f"lora={name}",) for name in options("lora")}
    found["pattern"] = ("lora=llm", "lora.r=4", f"lora.target_modules='{PATTERN}'")
    return found | {"pattern with head": ("lora=llm", "lora.r=4", f"lora.target_modules='{HEAD}'")}


def token_methods() -> dict[str, Overrides]:
    """Every option, and every rule of `prune`; the budget binds."""
    found: dict[str, Overrides] = {}
    for name in options("vision_tokens"):
        chosen = (f"vision_tokens={name}",) if name == "native" else (f"vision_tokens={name}", f"vision_tokens.budget={BUDGET}")
        found[name] = (*chosen, "vision_tokens.width=16", "vision_tokens.heads=2") if name == "resampler" else chosen
    ways = {f"prune by {rule.value}": (*found["prune"], f"vision_tokens.rule={rule.value}") for rule in PruneRule}
    return {name: chosen for name, chosen in found.items() if name != "prune"} | ways


def conditionings() -> dict[str, Overrides]:
    """Every option, and the forms of `cross_attention`."""
    found = {name: (f"conditioning={name}",) for name in options("conditioning")}
    own = ("conditioning=cross_attention", "conditioning.width=16", "conditioning.heads=2")
    found |= {"cross_attention": own, "cross_attention, parallel": (*own, "conditioning.parallel=true")}
    found["cross_attention, no prefix"] = (*own, "conditioning.keep_prefix=false")
    return found | {"cross_attention, layers": (*own, "conditioning.every=null", "conditioning.layers=[0]")}


DIMENSIONS: dict[str, dict[str, Overrides]] = {
    "model": models(),
    "dtype": each("model.dtype", DType),
    "quantisation": each("model.quantisation", Quantisation),
    "double quantisation": each("model.double_quantisation", ("true", "false")),
    "float32 norms": switch("model.fp32_layernorms"),
    "attention": each("model.attn_implementation", ("sdpa", "eager")),
    "data": data_sets(),
    "on_bad": each("data.on_bad", OnBad),
    "lora": adapters(),
    "size": {"rank": (), "parameters": ("lora.trainable_parameters={parameters}",), "top block": ("lora.top_k_blocks=1",)},
    "adapter": {
        "plain": (), "dora": ("lora.use_dora=true",), "rslora": ("lora.use_rslora=true",), "dropout": ("lora.lora_dropout=0.1",),
    },
    "start": each("lora.init_lora_weights", (*INITS, "pissa_niter_4")),
    "prompt": {"own": (), **{name: (f"prompt={name}",) for name in options("prompt") if name not in PROMPTS_ELSEWHERE}},
    "post": each("prompt.post", RULES),
    "image order": each("prompt.image_order", ImageOrder),
    "numbered": switch("prompt.numbered"),
    "vision_tokens": token_methods(),
    "conditioning": conditionings(),
    "training": {
        "steps": ("trainer.max_steps=2",),
        "resumed": ("trainer.max_steps=2", "trainer.save_every=1"),
        "epochs": ("trainer.max_steps=null", "trainer.max_epochs=0.5"),
        "none": ("trainer.max_steps=0",),
    },
    "checkpointing": each("trainer.gradient_checkpointing", ("null", "true", "false")),
    "packing": switch("trainer.packing"),
    "order": each("data.order", ("random", "by_image")),
    "layout": each("trainer.layout", ("rows", "trees", "auto")),
    "feature cache": each("trainer.feature_cache", ("true", "false")),
    "accumulate": each("trainer.accumulate_grad_batches", ("1", "2")),
    "looks": {
        "none": (), "every step": ("trainer.val_every=1",), "best": ("trainer.val_every=1", "trainer.restore_best=true"),
        "patience": ("trainer.val_every=1", "trainer.patience=1"),
    },
    "schedule": each("optim.schedule", Schedule),
    "rates": {
        "one": (), "by part": (*(f"optim.lr_{part}=5e-3" for part in ("vision", "projector", "llm", "extras")), "optim.lr_b_ratio=4"),
    },
    "threads": each("trainer.threads", ("1", "2")),
    "workers": each("trainer.num_workers", ("0", "1")),
    "finished": each("trainer.if_finished", IfFinished),
    "unfinished": each("trainer.if_unfinished", IfUnfinished),
    "generate": {"off": (), "on": ("evaluation.ask=[score,generate]",)},
    "swap": switch("evaluation.swap"),
    "controls": {"none": (), "all": ("evaluation.controls=[blank,shuffled,text_only]",)},
    "shared prefix": switch("evaluation.shared_prefix"),
    "verify": each("evaluation.verify", ("true", "false")),
    "launcher": {
        "alone": (), "shared": ("hydra/launcher=shared",), "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1"),
    },
    "require": {"nothing": (), **{name: (f"sweep.require=[{name}]",) for name in each("", MatchOn)}},
}  # fmt: skip
"""Every dimension; its first value is what a row has that does not care."""

FIRST: Row = {dimension: next(iter(values)) for dimension, values in DIMENSIONS.items()} | {"model": "tiny", "data": "pairs"}
FIRST |= {"lora": "llm", "vision_tokens": "native", "conditioning": "prefix"}
"""The laboratory's own defaults."""


@dataclass(frozen=True)
class Refusal:
    """Choices that no model can have together: all members of the product of `values` are refused. why: in a few words."""

    why: str
    values: dict[str, tuple[str, ...]]

    def holds(self, row: Row) -> bool:
        """Whether a row, which may be the beginning of one, has such choices."""
        return all(row.get(dimension) in names for dimension, names in self.values.items())


def but(dimension: str, *names: str) -> tuple[str, ...]:
    """All values of a dimension but some."""
    return tuple(value for value in DIMENSIONS[dimension] if value not in names)


def of_family(*families: str) -> tuple[str, ...]:
    """The models of some families."""
    return tuple(option for option in DIMENSIONS["model"] if family_of(option) in families)


TRAINED = ("steps", "resumed", "epochs")
QUANTISED = ("int8", "nf4")
READS_WEIGHTS = ("pissa", "pissa_niter_4", "olora", "orthogonal", "mica")
REFUSALS = (
    Refusal("one number of states an image", {"model": of_family("vit_gpt2"), "vision_tokens": but("vision_tokens", "native")}),
    Refusal("its decoder's own cross-attention", {"model": of_family("vit_gpt2"), "conditioning": but("conditioning", "add_cross_attention")}),
    Refusal("no cross-attention of its own", {"model": of_family(*QWEN), "conditioning": ("add_cross_attention",)}),
    Refusal("DeepStack", {"model": of_family("qwen3_vl"), "vision_tokens": but("vision_tokens", "native", "resize")}),
    Refusal("DeepStack", {"model": of_family("qwen3_vl"), "conditioning": but("conditioning", "prefix", "add_cross_attention")}),
    Refusal("bitsandbytes knows no Conv1D", {"model": of_family("vit_gpt2"), "quantisation": QUANTISED}),
    Refusal(
        "PEFT turns Conv1D round",
        {"model": of_family("vit_gpt2"), "start": ("olora",), "lora": but("lora", *WITHOUT, "vision", "projector")},
    ),
    Refusal("no image stands in its prompt", {"model": of_family("vit_gpt2"), "numbered": ("true",)}),
    Refusal("words meet images in blocks", {"conditioning": but("conditioning", "prefix"), "shared prefix": ("true",)}),
    Refusal("a statement is framed", {"data": TEXT, "prompt": ("declarative", "qa")}),
    Refusal("a question is framed", {"data": but("data", *TEXT), "prompt": ("question", "boxes", "benchmark")}),
    Refusal("int8 looks at a whole row", {"quantisation": ("int8",), "packing": ("true",), "training": TRAINED}),
    Refusal("images of a row are read together", {"conditioning": but("conditioning", "prefix"), "packing": ("true",), "training": TRAINED}),
    Refusal("int8 looks at a whole row", {"quantisation": ("int8",), "layout": ("trees",), "training": TRAINED}),
    Refusal("images of a row are read together", {"conditioning": but("conditioning", "prefix"), "layout": ("trees",), "training": TRAINED}),
    Refusal("two ways to lay out a row", {"packing": ("true",), "layout": ("trees",), "training": TRAINED}),
    Refusal("words are written already", {"data": TEXT, "generate": ("on",)}),
    Refusal("words are not swapped", {"data": TEXT, "swap": ("true",)}),
    Refusal("nothing is learned from it", {"data": ("winoground",), "training": TRAINED}),
    Refusal("the start reads weights", {"quantisation": QUANTISED, "start": READS_WEIGHTS, "lora": but("lora", *WITHOUT)}),
    Refusal("no MiCA with DoRA", {"start": ("mica",), "adapter": ("dora",), "lora": but("lora", *WITHOUT)}),
    Refusal(
        "DoRA forgets int8 scales on a CPU",
        {"quantisation": ("int8",), "adapter": ("dora",), "training": TRAINED, "lora": but("lora", *WITHOUT, "vision", "projector")},
    ),
    Refusal("a pattern names its blocks", {"lora": ("pattern", "pattern with head"), "size": ("top block",)}),
    Refusal("no adapter has a size", {"lora": WITHOUT, "size": ("parameters",)}),
    Refusal("weights of few bits do not train", {"lora": ("stage2", "full"), "quantisation": QUANTISED}),
    Refusal(
        "nothing trains",
        {
            "lora": ("none",),
            "training": TRAINED,
            "vision_tokens": but("vision_tokens", "resampler"),
            "conditioning": ("prefix", "add_cross_attention"),
        },
    ),
)  # fmt: skip
"""All that is refused. A row without any of these must finish."""


def refused(row: Row) -> list[Refusal]:
    """Why a row, or the beginning of one, is refused; empty if it must finish."""
    return [refusal for refusal in REFUSALS if refusal.holds(row)]


def overrides(row: Row) -> list[str]:
    """What a row gives on the command line, without the values that every row has."""
    return [override for dimension, name in row.items() for override in DIMENSIONS[dimension][name]]
