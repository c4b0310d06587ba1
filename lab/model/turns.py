"""Which tokens of a conversation's prompt are learned: what the assistant has said before, from the one rendering that is the prompt.

A turn begins where the generation prompt of all that precedes it ends, which is where the model is asked for it, and reaches to the end
of turn that the chat template writes behind it. Both must hold in the prompt itself: a template that changes earlier turns (Qwen3's
strips their thinking) has no such place, and the record is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lab.data.faults import shown
from lab.records import Chat, Sample, Text, Turn

if TYPE_CHECKING:
    import numpy as np

Span = tuple[int, int]
"""(first, behind the last)."""
ONE_EACH = "Give data.loss_on=each, which makes a sample of every answer, or data.loss_on=last"


def spans(
    render: Callable[[Sequence[dict[str, Any]]], str], messages: Sequence[dict[str, Any]], chat: Chat, prompt: str, lead: str, end: str
) -> list[Span]:
    """Where each learned turn stands in a prompt, in characters, its end of turn included.

    render: messages with their generation prompt as text. messages: of the chat, as its template takes them; prompt: all of them
    rendered. lead, end: what the template writes before and behind an answer. Raises `ValueError` with the reason for a turn that does
    not follow its generation prompt as it is.
    """
    found = []
    for place in chat.learned:
        said = "".join(part["text"] for part in messages[place]["content"] if part["type"] == "text")
        before = render(messages[:place]) + lead
        stop = len(before) + len(said) + len(end)
        if not prompt.startswith(before + said + end):
            raise ValueError(
                f"the chat template does not write the assistant's turn {shown(said)} as it is behind the generation prompt of what precedes "
                f"it, so what is learned there would never be asked for. {ONE_EACH}"
            )
        found.append((len(before) - len(lead), stop))
    return found


def token_spans(offsets: Sequence[Span], found: Sequence[Span], ends_within: bool) -> tuple[Span, ...]:
    """The same in tokens, the last of each labelled with the end of turn.

    offsets: of each token in the text. ends_within: an end of turn stands in the text; else the token behind a turn, which it would stand
    in place of, counts to it. Raises `ValueError` where a token reaches over the border of a turn.
    """
    import numpy as np

    starts = np.array([start for start, _ in offsets])
    tokens = []
    for span in found:
        first, stop = np.searchsorted(starts, span).tolist()
        if starts[first] != span[0] or starts[min(stop, len(starts) - 1)] != span[1]:
            raise ValueError(f"the tokenizer joins an assistant's turn with what stands beside it, such as white space. {ONE_EACH}")
        tokens.append((first, stop if ends_within else stop + 1))
    return tuple(tokens)


def labels(ids: np.ndarray, learned: Sequence[Span], end_id: int, ignored: int) -> np.ndarray:
    """What is predicted at each place of a prompt, int64: its tokens where a turn is learned, the end of turn at the last of each."""
    import numpy as np

    found = np.full(len(ids), ignored, dtype=np.int64)
    for start, stop in learned:
        found[start:stop] = ids[start:stop]
        found[stop - 1] = end_id
    return found


def answers_in(sample: Sample) -> int:
    """How many answers a sample has, its last among them."""
    return 1 + sum(turn.role == "assistant" for turn in sample.turns)


def without_last(sample: Sample) -> Sample | None:
    """A conversation up to the answer before its last; None where it has one answer. Its images stay, also those shown no more."""
    places = [place for place, turn in enumerate(sample.turns) if turn.role == "assistant"]
    if not places:
        return None
    turns, said = sample.turns[: places[-1]], sample.turns[places[-1]]
    asked = next((turn for turn in reversed(turns) if turn.role == "user"), said)
    return replace(sample, text=words(asked), answer=Text((words(said),)), turns=turns)


def words(turn: Turn) -> str:
    """The texts of a turn."""
    return "".join(part for part in turn.parts if isinstance(part, str))
