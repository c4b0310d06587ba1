"""What each value of the schema may be: the bounds of every number, the words of every key that takes one of a few. Light.

Types are OmegaConf's affair (`lab.config`), what values mean to each other is `lab.freezing`'s. A test walks the schema: a key
that is in none of these tables fails it.
"""

from lab.bounds.checking import check, check_given, check_number, check_word, default_of, nullable, spelled, value_of
from lab.bounds.numbers import BOUNDS, COUNT, MACHINES, SEED, SOURCE, Bounds, is_number, short
from lab.bounds.words import WORDS, Words, allow

__all__ = [
    "BOUNDS", "Bounds", "COUNT", "MACHINES", "SEED", "SOURCE", "WORDS", "Words", "allow", "check", "check_given", "check_number", "check_word",
    "default_of", "is_number", "nullable", "short", "spelled", "value_of",
]  # fmt: skip
