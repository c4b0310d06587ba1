"""Make the shipped tiny base from nothing: `python -m lab.pretraining --out DIR`."""
