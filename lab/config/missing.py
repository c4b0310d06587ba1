"""What stands where a value must be given."""

from typing import Any

MISSING: Any = "???"
"""OmegaConf's mark of a value that must be given. Its own constant is not imported, which takes as long as all of `--help`."""
