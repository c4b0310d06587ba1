"""Finished runs -> tables, intervals, figures, and one page that says what may be claimed. `python -m lab.report`."""
