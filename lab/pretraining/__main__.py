"""`python -m lab.pretraining --out DIR`: make the shipped tiny base from nothing.

Three stages, seeded, about half an hour on one CPU core. Stopped at any moment, the same command continues;
the result is bit-identical to an uninterrupted run with the same number of threads.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from lab import paths
from lab.pretraining.recipe import Recipe


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    default = Recipe()
    parser = argparse.ArgumentParser(prog="python -m lab.pretraining", description=__doc__)
    parser.add_argument("--out", type=paths.argument, required=True, help="the checkpoint's folder; state/ in it is to continue")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--grounding-steps", type=int, default=default.grounding_steps, help="stage 1: the tower")
    parser.add_argument("--words-steps", type=int, default=default.words_steps, help="stage 2: names")
    parser.add_argument("--language-steps", type=int, default=default.language_steps, help="stage 3: statements")
    parser.add_argument("--save-every", type=int, default=100, help="steps between two states")
    parser.add_argument("--check", type=int, default=1200, help="statements of `pairs` in the model card's table")
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads; another number, other last digits")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, or go on training, and save the checkpoint."""
    given = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

    import torch

    from lab.pretraining.architecture import make_model
    from lab.pretraining.card import publish
    from lab.pretraining.stages import Course
    from lab.pretraining.tokenizer import make_processor

    torch.set_num_threads(given.threads)
    recipe = Recipe(
        seed=given.seed,
        grounding_steps=given.grounding_steps,
        words_steps=given.words_steps,
        language_steps=given.language_steps,
    )
    processor = make_processor()
    course = Course(recipe, given.out, make_model(processor, recipe.seed), processor, given.save_every)
    course.run()
    publish(course, given.check)


if __name__ == "__main__":
    main()
