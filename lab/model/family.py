"""What the laboratory must know of a model family that its checkpoint does not say: its parts, and what it can be asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lab.bounds import WORDS
from lab.errors import ModelError
from lab.model.architecture import Architecture
from lab.model.qwen_vl import QwenVL

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MOST_BLOCKS = 128
"""More blocks than any part has."""
NOTHING = r"(?!)"
"""`Part.modules` of a part that a family does not have."""


@dataclass(frozen=True)
class Part:
    """One part of a vision-language model, by the names of its modules.

    modules: full names of everything that belongs to the part, as a regular expression for `re.fullmatch` on a
        module or parameter name (a parameter's name continues after a dot).
    block: the prefix of one repeated block, with one group for its number, and before it perhaps one `(?:A|B)` of places that number
        theirs alike; empty where the part has none.
    attention, mlp: names inside a block of its linear layers.
    linears: full names (a regular expression) of linear layers outside any block.
    """

    modules: str
    block: str = ""
    attention: tuple[str, ...] = ()
    mlp: tuple[str, ...] = ()
    linears: str = ""

    def num_blocks(self, modules: Iterable[str]) -> int:
        """How many blocks of this part are among the full module names of a model; 0 where the part has none."""
        found = (re.fullmatch(self.block, name) for name in modules) if self.block else ()
        return len({match.group(1) for match in found if match})

    def names(self, blocks: int = MOST_BLOCKS) -> list[str]:
        """Full names of the linear layers inside the first blocks, whether a checkpoint has so many or not."""
        several = re.search(r"\(\?:(.+?)\)", self.block)
        ways = several[1].split("|") if several else [self.block] * bool(self.block)
        prefixes = [self.block.replace(several[0], way) for way in ways] if several else ways
        places = [prefix.replace(r"(\d+)", str(block)).replace("\\", "") for prefix in prefixes for block in range(blocks)]
        return [f"{place}.{name}" for place in places for name in self.attention + self.mlp]

    def targets(self, preset: str, blocks: str = r"\d+") -> str:
        """Regular expression over full module names for `attention`, `mlp` or `all-linear`; empty if it has none.

        blocks: a regular expression for the numbers of the blocks that are meant.
        """
        names = {"attention": self.attention, "mlp": self.mlp, "all-linear": self.attention + self.mlp}[preset]
        patterns = []
        if self.block and names:
            inside = "|".join(re.escape(name) for name in names)
            patterns.append(self.block.replace(r"(\d+)", f"({blocks})") + rf"\.({inside})")
        if self.linears and preset != "attention":
            patterns.append(self.linears)
        return "|".join(f"({pattern})" for pattern in patterns)


@dataclass(frozen=True)
class Feature:
    """Something that not every family has. key: what asks for it. instead: what to do where it is refused.

    needs: abilities of which a family must have one, or none. inline: the answer must follow the prompt in its row.
    """

    key: str
    instead: str
    needs: tuple[str, ...] = ()
    inline: bool = False


ABILITIES = {
    "score": "gives the probabilities of answers",
    "generate": "writes text",
    "classify": "chooses among labels of its own",
}
"""What a family can be asked to do."""
OPTIONS = {dial: WORDS[f"{dial}.name"].legal for dial in ("vision_tokens", "conditioning")}
FEATURES = {
    **{f"{dial}={option}": Feature(f"{dial}={option}", "") for dial, options in OPTIONS.items() for option in options},
    "answers=choice": Feature("data", "Choose other data, or a family that scores answers or has labels.", needs=("score", "classify")),
    "answers=text": Feature("data", "Choose other data, or a family that writes text or has labels.", needs=("generate", "classify")),
    "answers=regions": Feature("data", "Choose other data, or a family that writes text.", needs=("generate",)),
    "conversations": Feature("data", "Choose other data, or a model whose checkpoint has a chat template, such as model=qwen2_vl_2b."),
    "boxes=qwen2_5": Feature("prompt.boxes=qwen2_5", "Choose prompt.boxes=json."),
    "generate": Feature("evaluation.ask=[score,generate]", "Ask for score alone.", needs=("generate",)),
    "feature_cache": Feature("trainer.feature_cache=true", "Its images are encoded anew each time they are shown."),
    "fast_step": Feature("fast_step", "The plain step trains it.", inline=True),
    "shared_prefix": Feature("evaluation.shared_prefix=true", "Leave it out.", inline=True),
    "packing": Feature("trainer.packing=true", "Leave it out.", inline=True),
    "trees": Feature("trainer.layout=trees", "Set it to rows.", inline=True),
    "quantisation": Feature("model.quantisation", "Give model.quantisation=none."),
    "numbered": Feature("prompt.numbered=true", "Set it to false."),
    "olora": Feature("lora.init_lora_weights=olora", "Choose another initialisation."),
    "labels": Feature("model.labels", "Set model.labels=null."),
    "soft_targets": Feature("optim.soft_targets=true", "Leave it out, or choose model=vilt_vqa.", needs=("classify",)),
    "clips": Feature("data", "Choose data without clips, or a model of Qwen-VL."),
    "export": Feature("export", "Load the adapter over its base."),
}
"""Of the two dials every option; `fast_step` is `lab.training.fast.fused_step`, which nothing asks for."""


def all_but(dial: str, options: Iterable[str], why: str) -> dict[str, str]:
    """Refusals of all options of a dial but these."""
    return dict.fromkeys((f"{dial}={option}" for option in OPTIONS[dial] if option not in options), why)


@dataclass(frozen=True)
class Family:
    """A model family: how its checkpoints are recognised, its parts, what they can be asked for and what they refuse.

    model_type: `config.model_type` of its checkpoints. components: the same of configs inside theirs. parts: vision,
    projector, llm. classes: Transformers' classes of them, by `config.architectures`. architecture: how images and text meet in it.
    attention: values of `model.attn_implementation` with which it loads, its own first.
    answers: where an answer's tokens stand: inline (behind the prompt, in its row), beside (in a decoder of their own), or nowhere,
    for classes. abilities: of `ABILITIES`. refuses: of `FEATURES`, why.
    boxes: how its checkpoints learned to write a box (`lab.answers.box_formats`); this laboratory's own format where they did not.
    packages: what its processor needs beside Transformers.
    one_of: its labels exclude each other, so that they are learned by cross-entropy, and not each by itself.
    whole: full names of modules that can train whole beside its parts, by their names in `lora.full`. last: of the layer of labels, where
    there is one.
    unused: names (a regular expression) of parameters that no forward pass needs, so that a checkpoint may lack them. surplus: names of
    tensors that a checkpoint may have too many, since they say nothing of what it computes.
    """

    name: str
    model_type: str
    parts: dict[str, Part]
    classes: tuple[str, ...]
    attention: tuple[str, ...] = WORDS["model.attn_implementation"].legal
    answers: Literal["inline", "beside", "classes"] = "inline"
    abilities: tuple[str, ...] = ("score", "generate")
    boxes: str = "json"
    refuses: dict[str, str] = field(default_factory=dict)
    components: dict[str, tuple[str, ...]] = field(default_factory=dict)
    architecture: Architecture = field(default_factory=QwenVL)
    whole: dict[str, str] = field(default_factory=dict)
    last: str = ""
    packages: tuple[str, ...] = ()
    one_of: bool = False
    unused: str = ""
    surplus: str = ""

    def model_class(self, config: PretrainedConfig) -> Any:
        """The class of Transformers that a checkpoint's config names; the first of `classes` where it names none.

        Raises `ModelError` for one of another class: an auto class would load what names the two have in common.
        """
        import transformers

        named = (config.architectures or self.classes)[0]
        if named not in self.classes:
            raise ModelError(
                f"model.family={self.name}: the checkpoint {config.name_or_path} is a {named}, and this family's are "
                f"{' or '.join(self.classes)}. Choose a checkpoint of that class, or the model whose family fits."
            )
        return getattr(transformers, named)

    def why_not(self, feature: str) -> str | None:
        """Why a feature is refused; None where it is offered."""
        needs = FEATURES[feature].needs
        if needs and not set(needs) & set(self.abilities):
            return f"it {' and '.join(ABILITIES[ability] for ability in self.abilities)}, and does nothing else"
        if FEATURES[feature].inline and self.answers != "inline":
            return "its answer does not follow the prompt in one row"
        if feature == "soft_targets" and self.one_of:
            return "its labels exclude each other"
        if feature == "boxes=qwen2_5" and not isinstance(self.architecture, QwenVL):
            return "they are in pixels of the picture as it is resized, and it makes one square of every picture"
        if feature == "conversations" and not self.architecture.template:
            return "its checkpoints have no chat template, which frames turns"
        if feature == "clips" and self.architecture.clips is None:
            return "it takes pictures, and no video"
        if feature == "packing" and not self.architecture.template:
            return "its language model does not keep samples in one row apart"
        if feature == "trees" and not self.architecture.template:
            return "its language model takes no mask of which token reads which"
        if feature == "labels" and not self.last:
            return "it writes its answers and has no labels"
        return self.refuses.get(feature)

    @property
    def trainable_parts(self) -> list[str]:
        """What `lora.full` may name: its parts that have weights, and heads of a task."""
        return [*(name for name, part in self.parts.items() if part.modules != NOTHING), *self.whole]

    def pattern(self, name: str) -> str:
        """Regular expression for `re.match` on names of modules and parameters of what `lora.full` calls so.

        A part has what no part before it claims.
        """
        names = list(self.parts)
        before = [self.parts[part].modules for part in names[: names.index(name)]] if name in names else []
        but = rf"(?!({'|'.join(before)})(\.|$))" if before else ""
        return rf"{but}({self.parts[name].modules if name in names else re.escape(self.whole[name])})(\.|$)"

    def owner(self, parameter: str) -> str:
        """Which of `trainable_parts` a parameter is of, a head before the part that it sits in; `other` if none claims it."""
        return next((name for name in (*self.whole, *self.parts) if re.match(self.pattern(name), parameter)), "other")

    def trains_whole(self, parameter: str, full: Sequence[str]) -> bool:
        """Whether a parameter is of what `lora.full` names."""
        return any(re.match(self.pattern(name), parameter) for name in full)

    @property
    def separable(self) -> bool:
        """Whether one tensor stands for an image, for the question that is asked of it at least."""
        return self.offers("feature_cache") or self.architecture.reads_question

    def offers(self, feature: str) -> bool:
        """Whether it has a feature, one of `FEATURES`."""
        return self.why_not(feature) is None

    def require(self, feature: str, key: str = "") -> None:
        """Raise a `ModelError` where a feature is refused. key: what has asked for it, where the feature's own key does not say it all."""
        if (why := self.why_not(feature)) is None:
            return
        dial = feature.partition("=")[0]
        legal = [f"{dial}={option}" for option in OPTIONS.get(dial, ()) if self.offers(f"{dial}={option}")]
        instead = FEATURES[feature].instead or f"Legal here: {', '.join(legal)}."
        raise ModelError(f"{key or FEATURES[feature].key}: model.family={self.name} does not take it: {why}. {instead}")

    def part_of(self, parameter: str) -> str:
        """The part that a module or parameter belongs to; `other` if none claims it."""
        return next((name for name in self.parts if re.match(self.pattern(name), parameter)), "other")
