"""Written tokens as pieces of text that join to the whole: no character is split, and nothing that was sent is taken back."""

from __future__ import annotations

from collections import deque
from os.path import commonprefix

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for bytes that are no whole character yet."""


class Pieces:
    """cleans: the tokenizer draws what it has written together (`do n ' t` to `don't`), so that text is certain some tokens later only."""

    def __init__(self, cleans: bool = False) -> None:
        self.sent = ""
        self.before = deque([""], maxlen=4 if cleans else 1)

    def of(self, text: str) -> str:
        """What can be sent, of the text so far."""
        full = len(self.before) == self.before.maxlen
        stable = commonprefix([*self.before, text]).rstrip(UNFINISHED) if full else ""
        self.before.append(text)
        return self.rest(stable)

    def rest(self, text: str) -> str:
        """What is left to send, of the whole text."""
        piece = text[len(self.sent) :] if text.startswith(self.sent) else ""
        self.sent += piece
        return piece
