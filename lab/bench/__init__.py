"""How fast the composed config is: `python -m lab.bench`."""
