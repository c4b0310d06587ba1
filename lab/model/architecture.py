"""How images and text meet in a kind of model: all that differs between kinds, in one object that a `Family` names.

Everything else (`Vlm`, `Encoder`, training, scoring) is written once, in these terms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lab.model.token_ids import tokenized
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


class Architecture(ABC):
    """What the laboratory must know of a kind of model beyond Transformers' common interface.

    What is not abstract is as one tokenizer and one call of the processor make it.

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
        """How it sees clips; None: it sees none."""
        return None

    def repair(self, model: Any) -> None:  # noqa: B027 (most need nothing)
        """Mend, in a model as Transformers loads it, what would change what it computes."""

    @abstractmethod
    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """Load what turns text and images into tensors: with a `tokenizer`, an `image_processor`, `chat_template` and `save_pretrained`."""

    @abstractmethod
    def image_id(self, processor: Any) -> int:
        """The id of the token that stands for an image in a prompt; -1 where there is none."""

    @abstractmethod
    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The text of a prompt, and of the answer with the end of the turn that follows it. numbered: `prompt.numbered`."""

    def learned(self, processor: Any, chat: Chat, numbered: bool, prompt: str, answer: str) -> tuple[Span, ...]:
        """The tokens of a prompt that `Chat.learned` names, of the texts of `frame`; the last of each is labelled with the end of turn.

        None without a chat template. Raises `ValueError` where that or the tokenizer leaves no place for them.
        """
        return ()

    def lead(self, processor: Any) -> str:
        """What stands between a prompt and its answer."""
        return ""

    def question(self, chat: Chat) -> str:
        """The text of a prompt as the processor of a model without a chat template takes it: its texts, a line each."""
        return "\n".join(message["content"][-1]["text"] for message in chat.messages)

    def messages(self, chat: Chat) -> list[dict[str, Any]] | None:
        """What its chat template is given; None where it has none."""
        return None

    def ids(self, processor: Any, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """The ids of several prompts, each with the answer behind it, of their texts by `frame`, which write their special tokens."""
        flat = tokenized(processor.tokenizer, [text for pair in texts for text in pair])
        return list(zip(flat[::2], flat[1::2], strict=True))

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> Any:
        """Texts of prompts with their images as keyword arguments of Transformers' model, without the laboratory's own collation."""
        return processor(text=list(prompts), images=list(images) or None, padding=True, return_tensors="pt")

    def written(self, processor: Any, size: tuple[int, int]) -> str | None:
        """What stands in a prompt for a picture of (width, height) pixels, a placeholder for each of its tiles; None: one placeholder."""
        return None

    def tiles(self, grid: Grid) -> int:
        """How many placeholders, of as many tokens each, stand for a picture of this grid in a prompt."""
        return 1

    def second_ids(self, processor: Any, chat: Chat) -> list[int]:
        """The ids of a prompt by a second tokenizer, where the model has one."""
        return []

    def stack_second(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, torch.Tensor]:
        """Such ids of samples of so many images each, one row an image, as a part of `Media.pixels`."""
        return {}

    @abstractmethod
    def pixels(
        self, processor: Any, config: PretrainedConfig, images: Sequence[Image]
    ) -> tuple[list[torch.Tensor], list[Grid]]:
        """Pixels float32, of `pixel_shape`, and grid of each image."""

    @abstractmethod
    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Of what `pixels` makes of an image of this grid."""

    @abstractmethod
    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """Pixels of several images as `Media.pixels`."""

    @abstractmethod
    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """The grid that `pixels` makes of an image of (width, height) pixels. Raises `ValueError` where it takes none of that size."""

    def resized(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> tuple[int, int] | None:
        """(width, height) in pixels to which it brings an image of such a size whole; None where all images become one square."""
        return None

    @abstractmethod
    def settings(self, processor: Any) -> dict[str, Any]:
        """What the image processor does, as plain values."""

    @abstractmethod
    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """A patch grid as the projector's grid of tokens (h, w)."""

    @abstractmethod
    def positions(self, vlm: Vlm) -> Positions:
        """The model's own rule."""

    @abstractmethod
    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Run the tower and the projector; `pooler_output` holds one tensor [tokens, hidden] for each image."""

    def seen(self, output: ModelOutput, media: Media) -> dict[str, ModelOutput]:
        """The tower's output for a batch's images, as the reader takes it in their place: `mm_encoder_outputs`."""
        return {"image": output}

    @abstractmethod
    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The module that reads text, and images with it; it takes `use_cache` and `logits_to_keep` as decoders do."""

    @abstractmethod
    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Keyword arguments for the reader's forward."""

    @abstractmethod
    def words(self, tokens: Tokens) -> dict[str, Any]:
        """The keyword arguments among them that the text being written comes by."""

    @abstractmethod
    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """`Vlm.predict`."""

    @abstractmethod
    def start_id(self, config: PretrainedConfig) -> int:
        """The token with which a decoder that answers stand in by themselves begins."""

    @abstractmethod
    def end_ids(self, vlm: Vlm) -> list[int]:
        """Tokens that end an answer."""

    @abstractmethod
    def texts(self, vlm: Vlm, ids: Any) -> list[str]:
        """Rows of an answer's ids as texts, without special tokens."""

    @abstractmethod
    def writer(self, model: Any) -> Any:
        """The module of Transformers' model that writes the answer."""

    @abstractmethod
    def head(self, model: Any) -> torch.nn.Module:
        """That of it which gives the logits."""

    @abstractmethod
    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """An example of so many tokens of text and images of about so many tokens, for planning."""
