"""How fast, against what: `python -m lab.bench`. Parts that measure; the door is `__main__`."""
