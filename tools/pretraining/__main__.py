"""`python -m tools.pretraining --out DIR`: make the shipped tiny base from nothing.

Six stages, seeded, about 80 minutes on one CPU core; bit-identical at one number of threads and one version of the libraries.
What it scores: python -m lab.train model.path=DIR lora=none trainer.max_steps=0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import Qwen2VLForConditionalGeneration

from lab import paths
from tools.pretraining.architecture import make_model
from tools.pretraining.recipe import Recipe
from tools.pretraining.tokenizer import make_processor
from tools.pretraining.training import teach_boxes, train


def main(arguments: Sequence[str] | None = None) -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretraining", description=__doc__)
    parser.add_argument("--out", type=paths.argument, required=True, help="the checkpoint's folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="OpenMP threads; another number, other last digits")
    parser.add_argument("--from", type=paths.argument, dest="start", help="a checkpoint as stage 5 leaves it: stage 6 alone is run over it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    torch.set_num_threads(options.threads)
    make(Recipe(seed=options.seed), options.out, options.start)


def make(recipe: Recipe, folder: Path, start: Path | None = None) -> None:
    """Train, and save the checkpoint with its processor and its recipe. start: of `--from`."""
    processor = make_processor()
    if start is None:
        model = make_model(processor, recipe.seed)
        train(recipe, model, processor)
    else:
        model = Qwen2VLForConditionalGeneration.from_pretrained(start)
        teach_boxes(recipe, model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
