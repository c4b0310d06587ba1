"""How many tokens one image costs the language model, and how they are made fewer.

`resize` shrinks the image before the tower. All other methods act on the tower's features after the projector
(`Vlm.condition`), so one feature store serves every budget: `pool`, `resampler`, `prune`, `merge`.

M-RoPE: every token carries the (h, w) of the cell of the original merged grid that it stands for, and the text after an
image stands where it would after the whole grid, at start + max(h, w): text keeps its distance from the image's far corner.
`resize` alone changes the grid itself, and with it the positions.

Identity: `vision_tokens=native` changes nothing; logits are bit-identical to the checkpoint's. `pool`, `prune` and `merge`
leave an image alone that costs no more than the budget, bit for bit.
"""

from __future__ import annotations

from lab.config import PruneRule, VisionTokensDial
from lab.errors import ConfigError
from lab.model import Vlm
from lab.model.family import Family

DEFAULT_HEADS = 1


def check(dial: VisionTokensDial, family: Family) -> None:
    """Check the dial against a family, before anything is loaded.

    Raises `ConfigError` for an impossible budget or heads that do not divide the width that is given, and
    `ModelError` for a method that the family does not take.
    """
    family.require(f"vision_tokens={dial.name}")
    if dial.name == "native" and dial.budget is not None:
        raise ConfigError(
            f"vision_tokens.budget={dial.budget}: vision_tokens=native takes no budget. "
            f"Choose vision_tokens=resize vision_tokens.budget={dial.budget}."
        )
    if dial.name != "native" and dial.budget is None:
        raise ConfigError(f"vision_tokens.budget: vision_tokens={dial.name} needs one. Give vision_tokens.budget=16, say.")
    if dial.width is not None:
        divide(dial.heads or DEFAULT_HEADS, dial.width)


def divide(heads: int, width: int) -> None:
    """Raise a `ConfigError` if a resampler's heads do not divide its width."""
    if width % heads:
        raise ConfigError(f"vision_tokens.heads={heads}: {heads} heads do not divide vision_tokens.width={width}.")


def install(vlm: Vlm, dial: VisionTokensDial, seed: int = 0) -> None:
    """Make every image cost what the dial says; a resampler is drawn from `seed` alone. Raises what `check` raises."""
    check(dial, vlm.family)
    if dial.budget is None:
        return
    vlm.budget = dial.budget
    match dial.name:
        case "resize":
            resize(vlm, dial.budget)
        case "resampler":
            add_resampler(vlm, dial, dial.budget, seed)
        case "pool":
            from lab.vision_tokens.pooling import Pool

            vlm.reducer = Pool(dial.budget)
        case "prune":
            from lab.vision_tokens.pruning import Prune

            vlm.reducer = Prune(dial.budget, dial.rule or PruneRule.deviation, vlm.hidden)
        case "merge":
            from lab.vision_tokens.merging import Merge

            vlm.reducer = Merge(dial.budget, vlm.hidden)


def resize(vlm: Vlm, budget: int) -> None:
    """Set the processor's pixel budget so that it makes at most `budget` tokens of an image.

    A token is a square of (patch_size x merge_size)^2 pixels; the processor rounds each side to whole squares and then
    keeps the area below `longest_edge`, which in Qwen-VL's processors is an area in pixels, not an edge. An image so long and
    thin that one row of squares exceeds the budget is an error when it is met (`Encoder.check`).
    """
    processor = vlm.processor.image_processor
    area = (processor.patch_size * processor.merge_size) ** 2
    smallest = min(processor.size["shortest_edge"], budget * area)
    processor.size = {"shortest_edge": smallest, "longest_edge": budget * area}


def add_resampler(vlm: Vlm, dial: VisionTokensDial, budget: int, seed: int) -> None:
    """Add a trained resampler to `Vlm.extras`. Raises `ConfigError` if its heads do not divide its width."""
    import torch

    from lab.vision_tokens.resampling import Resampler

    width, heads = dial.width or vlm.hidden, dial.heads or DEFAULT_HEADS
    divide(heads, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        resampler = Resampler(budget, vlm.hidden, width, heads)
    vlm.extras["resampler"] = vlm.reducer = resampler.to(vlm.device)
