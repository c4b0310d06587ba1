"""Make the shipped tiny base from nothing: `python -m tools.pretraining --out DIR`."""
