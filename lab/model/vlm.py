"""The one object that every dial acts on: a vision-language model whose parts have names."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lab.model.family import Family
from lab.model.visual import Conditioner, Reducer, at_places, reduce_images
from lab.records import Batch

if TYPE_CHECKING:
    import torch


@dataclass
class Vlm:
    """A vision-language model whose parts have names.

    model: Transformers' model, or PEFT's wrapper around it once adapters are attached; families differ in its attributes.
    processor: the checkpoint's own (`Architecture.processor`); `vision_tokens` may have changed its pixel budget.
    base: what the contract stores of the checkpoint: path, revision, dtype and the hashes that stand for it (`lab.model.identity`).
    extras: modules that dials have added (a resampler, cross-attention); they train and are saved beside the adapter.
    full: weights of the arm's own in place of the base's, by full name (`lab.lora.full.OwnWeight`).
    initial: how adapters, and the base weights that their initialisation has changed, began (`lab.lora.finalize_adapter`).
    budget: most tokens of one image by the dial `vision_tokens`, or None.
    reducer, conditioner: what `vision_tokens` and `conditioning` do with image tokens; None: nothing. Where they train,
        they are modules of `extras`.
    """

    model: Any
    processor: Any
    family: Family
    base: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, torch.nn.Module] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)
    initial: dict[str, Any] = field(default_factory=dict)
    budget: int | None = None
    reducer: Reducer | None = None
    conditioner: Conditioner | None = None

    @property
    def base_model(self) -> Any:
        """Transformers' model without PEFT's wrapper (its linear layers may still be PEFT's)."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.base_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states that go from block to block, as the embedding of words tells: norms and a Q-Former may compute in another, and
        what trains whole is kept in float32.
        """
        weight = next(self.base_model.get_input_embeddings().parameters())
        return next((own.base.dtype for own in self.full.values() if own.master is weight), weight.dtype)

    @property
    def spread(self) -> bool:
        """Whether its layers lie on several devices (`model.device_map`); accelerate then brings to each what it computes with."""
        return len(set(getattr(self.base_model, "hf_device_map", {}).values())) > 1

    @property
    def hidden(self) -> int:
        """Width of the language model."""
        return self.base_model.config.get_text_config().hidden_size

    def share(self) -> Vlm:
        """A second view on the same weights, with a processor and extra modules of its own, for another arm."""
        same = (self.model, self.family, getattr(self.processor, "tokenizer", None))  # no arm changes a tokenizer
        return copy.deepcopy(self, {id(each): each for each in same})

    def encode_images(self, pixels: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Run the tower and the projector on `Media.pixels`: float [tokens, hidden] for each image.

        Raises `ModelError` for a family whose images are more than that.
        """
        if not self.family.separable:
            self.family.require("feature_cache")
        return tuple(self.family.architecture.see(self, pixels)["pooler_output"])

    def condition(self, batch: Batch) -> tuple[Batch, dict[str, Any]]:
        """What the dials make of a batch's images: the batch with reduced tokens, and the conditioner's inputs.

        The features of the tower are reduced here and nowhere else, so that one feature store serves all budgets.
        """
        media = batch.media
        features = media.features if media.pixels is None else self.encode_images(media.pixels)
        if features is None:
            return batch, {}
        tokens, places = reduce_images(features, media.grids, self.reducer)
        made = batch.seen(tokens)
        if self.conditioner is None:
            return at_places(made, places), {}
        inputs = self.conditioner.inputs(made, places)
        if not self.conditioner.prefix:
            return batch.seen(None), inputs
        return at_places(made, places) if self.reducer is not None else made, inputs

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """A batch as keyword arguments of the reader. Images come as features where the batch has them, else as pixels."""
        added: dict[str, Any] = {}
        if self.reducer is not None or self.conditioner is not None:
            batch, added = self.condition(batch)
        return self.family.architecture.inputs(self, batch) | added

    @property
    def reader(self) -> torch.nn.Module:
        """The module that reads `inputs` and gives logits, adapters in it."""
        return self.family.architecture.reader(self)

    def logits(self, batch: Batch, rows: int | torch.Tensor) -> torch.Tensor:
        """Logits of the last `rows` positions that the reader reads, or of the positions int64 [rows]: [B, rows, vocabulary].

        The head is applied nowhere else.
        """
        return self.reader(**self.inputs(batch), use_cache=False, logits_to_keep=rows).logits

    def predict(self, batch: Batch) -> torch.Tensor:
        """Logits of each token of `target.labels`, [B, A, vocabulary]; without labels of the one that follows the prompt, A = 1."""
        return self.family.architecture.predict(self, batch)
