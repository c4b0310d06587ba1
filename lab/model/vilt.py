"""The architectures of ViLT (Kim et al. 2021, 2102.03334): one encoder reads words and patches, and a head chooses among labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lab.model.architecture import Architecture
from lab.model.fixed_size import counted, joined
from lab.model.labels import Labels
from lab.model.text_decoder import tower_output
from lab.records import Batch, Chat, ExampleSize, Tokens

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.architecture import Grid, Positions

ORDER_SEED = 0
"""Transformers draws the order of an image's patches from the global generator; it says nothing, and would move all that is drawn after."""


class Vilt(Architecture):
    """`lab.model.architecture.Architecture` of ViLT for visual question answering. Its label stands where others have an answer's token."""

    in_prompt = False
    beside_grid = 1
    padding_side = "right"
    most_images: int | None = 1

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(where, **options)

    def image_id(self, processor: Any) -> int:
        """None: patches stand behind the words, without a token of theirs."""
        return -1

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The question between the tokenizer's first and last token, and the answer, which is to be a label."""
        return f"{processor.tokenizer.cls_token}{self.question(chat)}{processor.tokenizer.sep_token}", chat.answer

    def pixels(self, processor: Any, config: PretrainedConfig, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[Grid]]:
        """Each image by itself, in its own proportions."""
        made = [processor.image_processor(images=[image], return_tensors="pt")["pixel_values"][0] for image in images]
        return made, [(1, each.shape[1] // config.patch_size, each.shape[2] // config.patch_size) for each in made]

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Channels, height, width."""
        return config.num_channels, *(side * config.patch_size for side in grid[1:])

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """[N, channels, height, width] of the largest, and which pixels are there, int64 [N, height, width]."""
        import torch
        from torch.nn.functional import pad

        height, width = (max(each.shape[side] for each in pixels) for side in (1, 2))
        values = torch.stack([pad(each, (0, width - each.shape[2], 0, height - each.shape[1])) for each in pixels])
        mask = torch.zeros((len(pixels), height, width), dtype=torch.int64)
        for seen, each in zip(mask, pixels, strict=True):
            seen[: each.shape[1], : each.shape[2]] = 1
        return {"pixel_values": values, "pixel_mask": mask}

    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """The processor brings the shorter side to its size, the longer to 1333 / 800 of it at most, and both down to whole steps."""
        from transformers.models.vilt.image_processing_vilt import MAX_LONGER_EDGE, MAX_SHORTER_EDGE

        images = processor.image_processor
        shorter = images.size["shortest_edge"]
        longest, scale = int(MAX_LONGER_EDGE / MAX_SHORTER_EDGE * shorter), shorter / min(size)
        scale = min(scale, longest / max(size))
        width, height = (int(side * scale + 0.5) // images.size_divisor * images.size_divisor for side in size)
        if not width or not height:
            raise ValueError(f"its shorter side would be less than {images.size_divisor} pixels")
        return 1, height // config.patch_size, width // config.patch_size

    def settings(self, processor: Any) -> dict[str, Any]:
        """Of the image processor; its size is that of the shorter side."""
        images = processor.image_processor
        keys = ("size_divisor", "image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize", "do_resize", "do_pad")
        values = {key: getattr(images, key) for key in keys}
        return {"class": type(images).__name__, **values, "size": images.size["shortest_edge"], "resample": int(images.resample)}

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """One embedding for each patch."""
        return grid[1], grid[2]

    def positions(self, vlm: Vlm) -> Positions:
        """Counted from the first token, as the model counts by itself."""
        return counted

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Embeddings of each image's patches at their places, class token first."""
        import torch

        embeddings, most = vlm.base_model.vilt.embeddings, vlm.base_model.config.max_image_length
        seen = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ORDER_SEED)
            for values, mask in zip(pixels["pixel_values"], pixels["pixel_mask"], strict=True):
                h, w = int(mask[:, 0].sum()), int(mask[0].sum())
                seen.append(embeddings.visual_embed(values[None, :, :h, :w], mask[None, :h, :w], max_image_length=most)[0][0])
        return tower_output(tuple(seen))

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The encoder, without its head."""
        return vlm.base_model.vilt

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Words, and the embeddings of each sample's image."""
        states, seen = joined(vlm, batch, vlm.hidden)
        return self.words(batch.prompt) | {"image_embeds": states, "pixel_mask": seen}

    def words(self, tokens: Tokens) -> dict[str, Any]:
        """By ViLT's names."""
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask}

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """Logits of the labels, [B, 1, labels]."""
        return self.head(vlm.base_model)(vlm.reader(**vlm.inputs(batch)).pooler_output)[:, None]

    def start_id(self, config: PretrainedConfig) -> int:
        """None: nothing is written."""
        return -1

    def end_ids(self, vlm: Vlm) -> list[int]:
        """Every label is a whole answer."""
        return list(range(vlm.base_model.config.num_labels))

    def texts(self, vlm: Vlm, ids: Any) -> list[str]:
        """The labels."""
        return [Labels(vlm.base_model.config).decode(row) for row in ids]

    def writer(self, model: Any) -> Any:
        """All of it: it chooses."""
        return model

    def head(self, model: Any) -> torch.nn.Module:
        """The classifier."""
        return model.classifier

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """One image as square as the model's positions are, or of about so many patches."""
        side = max(1, round(tokens**0.5))
        number = min(images, 1)
        return ExampleSize(min(text, config.max_position_embeddings), ((1, side, side),) * number, (side * side + 1,) * number)


class ViltPair(Vilt):
    """ViLT for two pictures: the encoder reads the words with each of them, marked as first or second, and a head reads both."""

    fewest_images = 2
    most_images: int | None = 2

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> Any:
        """By one call of the processor, its pictures two by two."""
        inputs = super().plain(processor, prompts, chats, images)
        return {name: value.unflatten(0, (-1, 2)) if name.startswith("pixel") else value for name, value in inputs.items()}

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """Logits of the labels, [B, 1, labels]."""
        import torch

        media = batch.media
        features = vlm.encode_images(media.pixels) if media.pixels is not None else media.features or ()
        pooled = []
        for place in range(2):
            one = replace(media, pixels=None, features=tuple(features[place::2]), counts=(1,) * len(media.counts))
            inputs = self.inputs(vlm, replace(batch, media=one))
            pooled.append(vlm.reader(**inputs, image_token_type_idx=place + 1).pooler_output)
        return self.head(vlm.base_model)(torch.cat(pooled, dim=-1))[:, None]

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Two images."""
        one = super().planned_size(config, text, 1, tokens)
        return ExampleSize(one.length, one.grids * 2, one.tokens * 2)
