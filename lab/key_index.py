"""The reference of `lab.keys` as a file, so that `--help` and tab completion need not read YAML, the schema or Hydra. Light.

It lies in the user's cache folder and is made anew when a YAML file of `conf/` or `sweeps/`, or the schema, has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.host.files import text_hash, write_atomically
from lab.paths import PACKAGE, shipped

if TYPE_CHECKING:
    from lab.keys import Schema

MODULES = ("config/*.py", "bounds/*.py", "keys.py", "paths.py", "curation/config.py")
"""What `lab.keys` is made of beside the YAML files, as patterns."""


class Door(NamedTuple):
    """A command that takes keys. config: the name of what it composes. folder: where in `conf`. sweeps: whether it takes them.

    schema: of its keys, imported when needed.
    """

    command: str
    config: str
    folder: str
    schema: Callable[[], Schema]
    sweeps: bool = False


def _experiment() -> Schema:
    from lab.keys import EXPERIMENT

    return EXPERIMENT


TRAIN = Door("lab train", "train", ".", _experiment, sweeps=True)


def load(door: Door = TRAIN) -> dict[str, Any]:
    """`lab.keys.reference` of what is installed."""

    def reference() -> dict[str, Any]:
        from lab import keys

        return keys.reference(shipped("conf") / door.folder, shipped("sweeps") if door.sweeps else None, door.schema())

    return kept(f"keys-{door.config}", reference)


def kept(name: str, make: Callable[[], Any]) -> Any:
    """What `make` gives, in plain values, from the file of this name unless a source has changed since it was written."""
    path = folder() / f"{name}-{text_hash(str(PACKAGE), digits=8)}.json"
    now = sources()
    with contextlib.suppress(OSError, ValueError):  # not there, or half of another version's
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["sources"] == now:
            return content["made"]
    made = make()
    with contextlib.suppress(OSError):  # a home that cannot be written: it is made each time
        write_atomically(path, json.dumps({"sources": now, "made": made}))
    return made


def folder() -> Path:
    """The user's cache folder, as the XDG base directory specification has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "vlm-lab"


def sources() -> dict[str, list[int]]:
    """Time and size of every file that the index is made of."""
    options = (path for name in ("conf", "sweeps") for path in shipped(name).rglob("*.yaml"))
    files = [*options, *(path for name in MODULES for path in PACKAGE.glob(name))]
    return {str(path): [(found := path.stat()).st_mtime_ns, found.st_size] for path in sorted(files)}
