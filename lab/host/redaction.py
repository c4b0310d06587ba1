"""Secrets taken out of text before it is written or printed: credentials in addresses, tokens of the environment. Light."""

from __future__ import annotations

import logging
import os
import re

SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN", "WANDB_API_KEY", "AZURE_STORAGE_ACCESS_KEY",
)
"""Environment variables whose values are shown to nobody."""
CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/@'\"]*:[^\s'\"]*|[^\s/@'\"]+)@")
"""`user:password@` or `token@` of an address, up to the last `@` of the word, so that a password may hold `/` and `@`."""
IN_QUERY = re.compile(r"([?&][^=&\s'\"]*(?:password|token|secret|key)[^=&\s'\"]*=)[^&\s'\"]+", re.IGNORECASE)
HIDDEN = "***"
OWN: set[str] = set()
"""What `hide` added."""
SHORTEST = 4
"""Characters of the shortest value that counts as a secret: replacing every `a` would hide nothing and spoil the text."""


def without_secrets(text: str) -> str:
    """The text with `***` in place of every credential that is known or looks like one."""
    text = CREDENTIALS.sub(f"{HIDDEN}@", text)
    text = IN_QUERY.sub(rf"\g<1>{HIDDEN}", text)
    for value in (*(os.environ.get(name, "") for name in SECRETS), *OWN):
        if len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    return text


def hide(value: str) -> None:
    """Count a value as a secret, such as a key from a variable that the user named."""
    OWN.add(value)


class Formatter(logging.Formatter):
    """Formats a message and its traceback without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))
