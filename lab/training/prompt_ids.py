"""The tokenised prompts of a split, 4 bytes a token."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable

import numpy as np

from lab.model.encoded import TokenizedPrompt


class Texts:
    """Tokenised prompts, packed: 4 bytes a token, however many there are."""

    def __init__(self, texts: Iterable[TokenizedPrompt]) -> None:
        ids, orders, learned, steps = array("i"), array("i"), array("i"), array("d")
        ends, order_ends, learned_ends, step_ends = array("q", [0]), array("q", [0]), array("q", [0]), array("q", [0])
        for text in texts:
            for part in (text.prompt_ids.tolist(), text.answer_ids.tolist(), text.second_ids):
                ids.extend(part)
                ends.append(len(ids))
            orders.extend(text.image_order)
            order_ends.append(len(orders))
            learned.extend(itertools.chain.from_iterable(text.learned))
            learned_ends.append(len(learned))
            steps.extend(text.steps)
            step_ends.append(len(steps))
        self.ids, self.ends = np.array(ids), np.array(ends)
        self.orders, self.order_ends = np.array(orders), np.array(order_ends)
        self.learned, self.learned_ends = np.array(learned).reshape(-1, 2), np.array(learned_ends) // 2
        self.steps, self.step_ends = np.array(steps), np.array(step_ends)

    def __getitem__(self, index: int) -> TokenizedPrompt:
        start, middle, end, last_end = self.ends[3 * index : 3 * index + 4]
        first, last = self.order_ends[index : index + 2]
        prompt, answer = self.ids[start:middle].astype(np.int64), self.ids[middle:end].astype(np.int64)
        learned = tuple(map(tuple, self.learned[slice(*self.learned_ends[index : index + 2])].tolist()))
        steps = tuple(self.steps[slice(*self.step_ends[index : index + 2])].tolist())
        return TokenizedPrompt(prompt, answer, tuple(self.orders[first:last].tolist()), self.ids[end:last_end].tolist(), learned, steps)
