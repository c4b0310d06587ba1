"""How images and text meet in a kind of model: all that differs between kinds, in one object that a `Family` names.

Everything else (`Vlm`, `Encoder`, training, scoring) is written once, in these terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from lab.errors import ModelError
from lab.model import turns
from lab.model.turns import Span
from lab.records import Batch, Chat, ExampleSize, Media, Tokens

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.clips import Clips

Grid = tuple[int, int, int]
"""(t, h, w) of an image in patches."""


class Positions(Protocol):
    """The rule by which tokens get their positions."""

    def __call__(
        self,
        ids: torch.Tensor,
        types: torch.Tensor,
        grids: torch.Tensor | None,
        attention: torch.Tensor | None,
        steps: Sequence[float] = (),
    ) -> torch.Tensor:
        """Positions int64 [3, B, T] (M-RoPE) or [B, T] of ids, token types and attention mask [B, T] with grids [N, 3].

        steps: of the N images the seconds from one temporal patch of a clip to the next, 0 of a picture; () where all are pictures.
        """
        ...


class Architecture(Protocol):
    """What the laboratory must know of a kind of model beyond Transformers' common interface.

    in_prompt: an image stands in the prompt, as tokens. beside_grid: tokens of an image beside those of its grid (a class token).
    padding_side: of prompts, in the checkpoint's tokenizer too. fewest_images, most_images: of a sample, the latter or None.
    again: inputs of the reader that it must be given again with every further token, beside its cache.
    reads_question: the features of an image depend on the question, of which `Media.pixels` then holds `second_ids` too.
    position_axes: numbers of a position, 3 with M-RoPE. template: it has a chat template, which frames several turns.
    causal: a prompt is read from left to right, as its answer is.
    tiled: a picture stands in the prompt as several runs of tokens, one for each tile (`written`).
    adds_special_tokens: the tokenizer adds its own to a prompt, as a call of it does unasked.
    """

    in_prompt: bool
    beside_grid: int
    padding_side: str
    fewest_images: int
    most_images: int | None
    again: tuple[str, ...]
    reads_question: bool
    position_axes: int
    template: bool
    causal: bool
    tiled: bool
    adds_special_tokens: bool

    @property
    def clips(self) -> Clips | None:
        """How it sees clips; None: it sees none."""
        ...

    def repair(self, model: Any) -> None:
        """Mend, in a model as Transformers loads it, what would change what it computes."""
        ...

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """Load what turns text and images into tensors: with a `tokenizer`, an `image_processor`, `chat_template` and `save_pretrained`."""
        ...

    def image_id(self, processor: Any) -> int:
        """The id of the token that stands for an image in a prompt; -1 where there is none."""
        ...

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The text of a prompt, and of the answer with the end of the turn that follows it. numbered: `prompt.numbered`."""
        ...

    def learned(self, processor: Any, chat: Chat, numbered: bool, prompt: str, answer: str) -> tuple[Span, ...]:
        """The tokens of a prompt that `Chat.learned` names, of the texts of `frame`; the last of each is labelled with the end of turn.

        Raises `ValueError` where the chat template or the tokenizer leaves no place for them.
        """
        ...

    def lead(self, processor: Any) -> str:
        """What stands between a prompt and its answer."""
        ...

    def question(self, chat: Chat) -> str:
        """The text of a prompt as the processor of a model without a chat template takes it."""
        ...

    def messages(self, chat: Chat) -> list[dict[str, Any]] | None:
        """What its chat template is given; None where it has none."""
        ...

    def ids(self, processor: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """The ids of a prompt and of the answer behind it, of their texts by `frame`."""
        ...

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> Any:
        """Texts of prompts with their images as keyword arguments of Transformers' model, without the laboratory's own collation."""
        ...

    def written(self, processor: Any, size: tuple[int, int]) -> str | None:
        """What stands in a prompt for a picture of (width, height) pixels, a placeholder for each of its tiles; None: one placeholder."""
        ...

    def tiles(self, grid: Grid) -> int:
        """How many placeholders, of as many tokens each, stand for a picture of this grid in a prompt."""
        ...

    def second_ids(self, processor: Any, chat: Chat) -> list[int]:
        """The ids of a prompt by a second tokenizer, where the model has one."""
        ...

    def stack_second(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, torch.Tensor]:
        """Such ids of samples of so many images each, one row an image, as a part of `Media.pixels`."""
        ...

    def pixels(
        self, processor: Any, config: PretrainedConfig, images: Sequence[Image]
    ) -> tuple[list[torch.Tensor], list[Grid]]:
        """Pixels float32, of `pixel_shape`, and grid of each image."""
        ...

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Of what `pixels` makes of an image of this grid."""
        ...

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """Pixels of several images as `Media.pixels`."""
        ...

    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """The grid that `pixels` makes of an image of (width, height) pixels. Raises `ValueError` where it takes none of that size."""
        ...

    def resized(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> tuple[int, int] | None:
        """(width, height) in pixels to which it brings an image of such a size whole; None where all images become one square."""
        ...

    def settings(self, processor: Any) -> dict[str, Any]:
        """What the image processor does, as plain values."""
        ...

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """A patch grid as the projector's grid of tokens (h, w)."""
        ...

    def positions(self, vlm: Vlm) -> Positions:
        """The model's own rule."""
        ...

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Run the tower and the projector; `pooler_output` holds one tensor [tokens, hidden] for each image."""
        ...

    def seen(self, output: ModelOutput, media: Media) -> dict[str, ModelOutput]:
        """The tower's output for a batch's images, as the reader takes it in their place: `mm_encoder_outputs`."""
        ...

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The module that reads text, and images with it; it takes `use_cache` and `logits_to_keep` as decoders do."""
        ...

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Keyword arguments for the reader's forward."""
        ...

    def words(self, tokens: Tokens) -> dict[str, Any]:
        """The keyword arguments among them that the text being written comes by."""
        ...

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """`Vlm.predict`."""
        ...

    def start_id(self, config: PretrainedConfig) -> int:
        """The token with which a decoder that answers stand in by themselves begins."""
        ...

    def end_ids(self, vlm: Vlm) -> list[int]:
        """Tokens that end an answer."""
        ...

    def texts(self, vlm: Vlm, ids: Any) -> list[str]:
        """Rows of an answer's ids as texts, without special tokens."""
        ...

    def writer(self, model: Any) -> Any:
        """The module of Transformers' model that writes the answer."""
        ...

    def head(self, model: Any) -> torch.nn.Module:
        """That of it which gives the logits."""
        ...

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """An example of so many tokens of text and images of about so many tokens, for planning."""
        ...


class OneTokenizer:
    """What of an `Architecture` is alike wherever one tokenizer and one call of the processor make the inputs, and nothing must be mended."""

    fewest_images: int = 0
    most_images: int | None = None
    again: tuple[str, ...] = ()
    reads_question = False
    position_axes = 1
    template = False
    causal = True
    tiled = False
    adds_special_tokens = False

    @property
    def clips(self) -> Clips | None:
        """It takes pictures alone."""
        return None

    def repair(self, model: Any) -> None:
        """Nothing."""

    def learned(self, processor: Any, chat: Chat, numbered: bool, prompt: str, answer: str) -> tuple[Span, ...]:
        """None: it has no chat template."""
        return ()

    def lead(self, processor: Any) -> str:
        """Nothing."""
        return ""

    def question(self, chat: Chat) -> str:
        """Its texts, a line each."""
        return "\n".join(message["content"][-1]["text"] for message in chat.messages)

    def messages(self, chat: Chat) -> list[dict[str, Any]] | None:
        """None: it has no chat template."""
        return None

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> Any:
        """By one call of the processor."""
        return processor(text=list(prompts), images=list(images) or None, padding=True, return_tensors="pt")

    def ids(self, processor: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Each by itself: the texts write their special tokens."""
        prompt_ids, answer_ids = (processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
        return prompt_ids, answer_ids

    def resized(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> tuple[int, int] | None:
        """None: the tower has a size of its own."""
        return None

    def seen(self, output: ModelOutput, media: Media) -> dict[str, ModelOutput]:
        """All are pictures."""
        return {"image": output}

    def written(self, processor: Any, size: tuple[int, int]) -> str | None:
        """None: the placeholder that the chat template writes."""
        return None

    def tiles(self, grid: Grid) -> int:
        """One."""
        return 1

    def second_ids(self, processor: Any, chat: Chat) -> list[int]:
        """None: there is one tokenizer."""
        return []

    def stack_second(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}


class TextDecoder(OneTokenizer):
    """What of an `Architecture` is alike wherever a decoder of text writes the answer, behind the prompt in its row."""

    def words(self, tokens: Tokens) -> dict[str, Any]:
        """By the names that Transformers' decoders take."""
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask, "position_ids": tokens.positions}

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """`Vlm.predict`: position t predicts token t + 1. Without labels, the last token of each row is looked for, wherever it is padded."""
        import torch

        if batch.target.places is not None:
            return vlm.logits(batch, batch.target.places)
        logits = vlm.logits(batch, batch.target.rows)
        if batch.target.labels is not None:
            return logits[:, :-1]
        assert batch.prompt.mask is not None
        length = batch.prompt.mask.shape[1]
        last = (batch.prompt.mask * torch.arange(length, device=logits.device)).argmax(dim=1) - (length - logits.shape[1])
        return logits[torch.arange(len(last), device=logits.device), last, None]

    def start_id(self, config: PretrainedConfig) -> int:
        """None: the answer follows the prompt."""
        return -1

    def end_ids(self, vlm: Vlm) -> list[int]:
        """The tokenizer's, and those of the checkpoint's generation config."""
        named = getattr(vlm.bare.generation_config, "eos_token_id", None)
        listed = named if isinstance(named, list) else [named]
        return sorted({token for token in (vlm.processor.tokenizer.eos_token_id, *listed) if token is not None})

    def texts(self, vlm: Vlm, ids: Any) -> list[str]:
        """By the tokenizer."""
        return vlm.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def writer(self, model: Any) -> Any:
        """All of it."""
        return model

    def head(self, model: Any) -> torch.nn.Module:
        """The output embedding."""
        return self.writer(model).get_output_embeddings()


def added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores so that positions are read as a mask says: every kind of attention adds, and eager would add True as 1."""
    import torch

    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def joint_ids(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """The ids of a prompt, as the tokenizer itself begins it, and of what it makes of the answer behind it.

    SentencePiece writes a word otherwise alone than behind another. Raises `ModelError` if the two texts share a token.
    """
    before, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + answer)["input_ids"]
    if whole[: len(before)] != before:
        raise ModelError("model: the checkpoint's tokenizer joins the end of a prompt and its answer in one token, so neither stands alone.")
    return before, whole[len(before) :]


def tower_output(features: Any) -> ModelOutput:
    """Features [tokens, hidden] of each image as Qwen-VL's towers give them, which is more than the field is declared for."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=features)


class Placeholders(TextDecoder):
    """What of an `Architecture` is alike where Transformers' whole model reads a text in which placeholders stand for images."""

    template = True

    def render(self, processor: Any, messages: Sequence[dict[str, Any]], numbered: bool, generation: bool = True) -> str:
        """Messages by the chat template. generation: with its generation prompt."""
        return processor.apply_chat_template(list(messages), add_generation_prompt=generation, tokenize=False)

    def learned(self, processor: Any, chat: Chat, numbered: bool, prompt: str, answer: str) -> tuple[Span, ...]:
        """From where the prompt's own rendering has them (`lab.model.turns`)."""
        if not chat.learned:
            return ()
        lead, ends = self.lead(processor), self.ends_turns(processor)
        end = answer.removeprefix(lead + chat.answer) if ends else ""
        render = partial(self.render, processor, numbered=numbered)
        found = turns.spans(render, self.messages(chat) or (), chat, prompt, lead, end)
        return turns.token_spans(self.offsets(processor, prompt), found, ends)

    def ends_turns(self, processor: Any) -> bool:
        """Whether its chat template writes the end of the assistant's turns."""
        return True

    def offsets(self, processor: Any, prompt: str) -> list[Span]:
        """Where in the text of a prompt each token of `ids` stands."""
        return processor.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    def image_id(self, processor: Any) -> int:
        """Of the placeholder that the chat template writes."""
        return processor.image_token_id

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Through Transformers' own call."""
        return vlm.bare.get_image_features(**pixels, return_dict=True)

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The whole model."""
        return vlm.model

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Images come as features where the batch has them, else as pixels."""
        images: dict[str, Any] = dict(batch.media.pixels or {})
        if batch.media.features is not None:
            images["mm_encoder_outputs"] = self.seen(tower_output(batch.media.features), batch.media)
        if batch.prompt.mask is not None and batch.prompt.mask.ndim == 4:
            images["attention_mask"] = added(batch.prompt.mask, vlm.bare.get_input_embeddings().weight.dtype)
        return self.words(batch.prompt) | images
