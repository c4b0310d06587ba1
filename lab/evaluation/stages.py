"""One answer, stage by stage: the tower sees, the language model reads, one further token is written.

    vision    pixels to image tokens: tower and projector
    prefill   image tokens and text to the answer's logits, with the key-value cache that a further token needs; what
              `vision_tokens` and `conditioning` make of the image tokens is part of it
    decode    one further token over that cache

The stages compute what `Vlm.predict` computes in one call (tests/test_latency.py).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from lab import lora
from lab.errors import TrainingError
from lab.model import Vlm
from lab.model.visual import reduce_images
from lab.records import Batch, Tokens

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput


@dataclass(frozen=True)
class Read:
    """A prompt that was read. logits: of the answer, [B, vocabulary]. cache: what the next token is read over, by keyword."""

    logits: torch.Tensor
    cache: Mapping[str, Any]


def require_finite(values: torch.Tensor, sample_ids: Sequence[str], of: str = "logits") -> None:
    """Raise a `TrainingError` where what an answer would be read from, one row a sample, is no number: it would read as token 0, "!"."""
    broken = (~torch.isfinite(values).flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise TrainingError(
            f"the {of} of {len(broken)} of {len(sample_ids)} samples are not finite (first: sample {sample_ids[broken[0]]}), so nothing is "
            "read from them. Over model.dtype=float16 activations may overflow: choose bfloat16 or float32; else lower optim.lr."
        )


def encode_images(vlm: Vlm, batch: Batch) -> ModelOutput | None:
    """The tower's and the projector's output for the images of a batch; None without images."""
    return None if batch.media.pixels is None else vlm.family.architecture.see(vlm, batch.media.pixels)


def without_pixels(vlm: Vlm, batch: Batch, seen: ModelOutput | None) -> Batch:
    """The batch with image features in place of pixels, where one tensor stands for an image; features of a cache stay."""
    return batch if seen is None else batch.seen(tuple(seen["pooler_output"]) if vlm.family.separable else None)


def prefill(vlm: Vlm, batch: Batch, seen: ModelOutput | None) -> Read:
    """The answer's logits of a batch whose images were seen, and the cache of its prompt."""
    if vlm.family.answers == "classes":
        return Read(vlm.predict(without_pixels(vlm, batch, seen))[:, 0], {})
    inputs = vlm.inputs(without_pixels(vlm, batch, seen))
    if seen is not None and not vlm.family.separable:
        inputs["mm_encoder_outputs"] = vlm.family.architecture.seen(seen, batch.media)
    out = vlm.reader(**inputs, use_cache=True, logits_to_keep=1)
    return Read(out.logits[:, -1], kept(out) | {name: inputs[name] for name in vlm.family.architecture.again})


def kept(out: ModelOutput) -> dict[str, Any]:
    """What a reader has cached, under the keyword by which it takes it back: `cache`, in earlier Transformers `past_key_values`."""
    name = "cache" if "cache" in out else "past_key_values"
    return {name: out[name]}


def next_inputs(vlm: Vlm, batch: Batch, seen: ModelOutput | None, token: torch.Tensor) -> dict[str, Any]:
    """Keyword arguments for the reading of one further token, int64 [B], after a left-padded batch, beside what was kept."""
    step = grown(without_pixels(vlm, batch, seen), token)
    media = step.media
    added: dict[str, Any] = {}
    if vlm.conditioner is not None and media.features is not None:
        tokens, places = reduce_images(media.features, media.grids, vlm.reducer)
        added = vlm.conditioner.inputs(step.seen(tokens), places)
    return vlm.family.architecture.words(step.answer or step.prompt) | added


def grown(batch: Batch, token: torch.Tensor) -> Batch:
    """The batch with the row that is written one token longer, int64 [B]."""
    if batch.answer is not None:
        return replace(batch, answer=longer(batch.answer, token))
    return replace(batch, prompt=longer(batch.prompt, token))


def longer(read: Tokens, token: torch.Tensor) -> Tokens:
    """One further token, int64 [B], after a left-padded prompt or such a token: ids of its own, and a mask of all."""
    assert read.mask is not None
    ids = token.unsqueeze(1)
    return Tokens(ids, torch.cat([read.mask, torch.ones_like(ids)], dim=1), read.positions[..., -1:] + 1, torch.zeros_like(ids))


def decode_step(vlm: Vlm, inputs: Mapping[str, Any], cache: Mapping[str, Any]) -> torch.Tensor:
    """Logits after one further token, [B, vocabulary]; the cache grows by it."""
    return vlm.reader(**inputs, **cache, use_cache=True, logits_to_keep=1).logits[:, -1]


def merged(vlm: Vlm) -> Vlm | None:
    """The model with its adapters merged into the weights: a copy that shares every tensor it does not change.

    None where nothing can be merged: no adapters, or a quantised base, whose weights would be rounded anew.
    """
    from peft.tuners.lora import LoraLayer

    if not hasattr(vlm.model, "merge_and_unload") or vlm.base.get("quantisation", "none") != "none":
        return None
    changed = {
        id(tensor)
        for layer in vlm.model.modules()
        if isinstance(layer, LoraLayer)
        for tensor in layer.get_base_layer().parameters(recurse=False)
    }
    tensors = [*vlm.model.parameters(), *vlm.model.buffers()]
    shared = {id(tensor): tensor for tensor in tensors if id(tensor) not in changed}
    return replace(vlm, model=lora.merge(copy.deepcopy(vlm.model, shared)), initial={})
