"""The fixtures of tests/ serve here too."""

from conftest import composer, one_thread

__all__ = ["composer", "one_thread"]
