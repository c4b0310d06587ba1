"""Benchmarks as data options: `specs` is their table, `tables` reads both layouts, `questions` makes questions of rows, `marks` marks replies."""
