"""Data sets: a file for each, with its `DATA_SET`."""
