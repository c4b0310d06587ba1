"""Where the image enters the language model: in the prompt, or by cross-attention inside its blocks.

`cross_attention` (Flamingo: Alayrac et al. 2022, 2204.14198; Llama 3.2's `mllama`; parallel form: mPLUG-Owl3, Ye et al. 2024,
2408.04840). In chosen blocks the text attends to the tokens of *all* images of its sample, after the projector and after
`vision_tokens`; what tells image A from image B, and where in it a token lies, is added to keys and values.

`add_cross_attention` is Hugging Face's own: the decoder was built with cross-attention, as GPT-2 can be and Qwen-VL's cannot, and
no image stands in its prompt. It is what a checkpoint is, not what is made of one: legal for exactly those that have it.

Identity: `prefix` and `add_cross_attention` change nothing. `cross_attention` at step 0 has its gates at 0, and its logits are
bit-identical to the checkpoint's: with `keep_prefix=true` to those of the same prompt with its image tokens,
with `keep_prefix=false` to those of the same prompt without them (the markers around each image stay, with nothing between).
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

from lab.config import ConditioningDial
from lab.errors import ConfigError
from lab.model import Vlm
from lab.model.family import Family

if TYPE_CHECKING:
    import torch

DEFAULT_EVERY, DEFAULT_HEADS = 1, 1


def check(dial: ConditioningDial, family: Family) -> None:
    """Check the dial against a family, before anything is loaded.

    Raises `ConfigError` for two ways of naming blocks or heads that do not divide the width that is given,
    and `ModelError` for a method that the family does not take.
    """
    family.require(f"conditioning={dial.name}")
    if dial.layers is not None and dial.every is not None:
        raise ConfigError(
            f"conditioning.every={dial.every}, conditioning.layers={list(dial.layers)}: give one of them and set the other "
            "to null."
        )
    if dial.width is not None:
        divide(dial.heads or DEFAULT_HEADS, dial.width)


def divide(heads: int, width: int) -> None:
    """Raise a `ConfigError` if the heads of cross-attention do not divide its width."""
    if width % heads:
        raise ConfigError(f"conditioning.heads={heads}: {heads} heads do not divide conditioning.width={width}.")


def install(vlm: Vlm, dial: ConditioningDial, seed: int = 0) -> None:
    """Let the image enter where the dial says; new modules are drawn from `seed` alone.

    Raises what `check` raises, and `ConfigError` for blocks that the model does not have.
    """
    check(dial, vlm.family)
    if dial.name != "cross_attention":
        return
    import torch

    from lab.conditioning.cross_attention import CrossAttention

    blocks = decoder_blocks(vlm)
    width, heads = dial.width or vlm.hidden, dial.heads or DEFAULT_HEADS
    divide(heads, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = CrossAttention(chosen_blocks(dial, len(blocks)), vlm.hidden, width, heads, dial.parallel, dial.keep_prefix)
    vlm.extras["cross_attention"] = vlm.conditioner = module.to(vlm.device)
    attention = vlm.family.parts["llm"].attention[0].rpartition(".")[0]
    for index, block in enumerate(blocks):
        listen(block, block.get_submodule(attention), index)


def chosen_blocks(dial: ConditioningDial, number: int) -> list[int]:
    """The numbers of the blocks that get cross-attention. `every` = k takes the k-th, 2 k-th, ... (from 1), as OpenFlamingo."""
    if dial.layers is None:
        every = DEFAULT_EVERY if dial.every is None else dial.every
        if every > number:
            raise ConfigError(f"conditioning.every={every}: the language model has {number} blocks. Give at most {number}.")
        return list(range(every - 1, number, every))
    wrong = [layer for layer in dial.layers if not 0 <= layer < number]
    if wrong or not dial.layers or len(set(dial.layers)) < len(dial.layers):
        raise ConfigError(
            f"conditioning.layers={list(dial.layers)}: name at least one block, each once, from 0 to {number - 1}."
        )
    return sorted(dial.layers)


def decoder_blocks(vlm: Vlm) -> list[torch.nn.Module]:
    """The blocks of the language model in order."""
    pattern = vlm.family.parts["llm"].block
    found = {name: module for name, module in vlm.base_model.named_modules() if re.fullmatch(pattern, name)}
    return list(found.values())


def listen(block: Any, attention: torch.nn.Module, index: int) -> None:
    """Hook a block once and for all arms that share it. Without the keyword `image_memory` the hooks do nothing.

    What a forward pass attends to comes with its own call, never from a field of the module: arms over one base, and
    gradient checkpointing that runs a block a second time, see what is theirs.
    """
    if not getattr(block, "hears_image_memory", False):
        block.register_forward_pre_hook(partial(before_block, index), with_kwargs=True)
        attention.register_forward_hook(partial(beside_attention, index), with_kwargs=True)
        block.hears_image_memory = True


def before_block(index: int, block: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Serial form: replace the block's input h by CrossAttention(h)."""
    memory = kwargs.get("image_memory")
    if memory is None or memory.module.parallel or index not in memory.module.layers:
        return None
    return (memory.module.serial(index, args[0], memory), *args[1:]), kwargs


def beside_attention(
    index: int, attention: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Any, ...]
) -> Any:
    """Parallel form: add the cross-attention of self-attention's own (normalised) input to self-attention's output."""
    memory = kwargs.get("image_memory")
    if memory is None or not memory.module.parallel or index not in memory.module.layers:
        return None
    seen = memory.module.gated(index, kwargs["hidden_states"], memory)
    return (output[0] + seen, *output[1:])
