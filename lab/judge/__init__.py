"""A language model that marks replies to benchmarks, beside the exact rule and never in its place (`evaluation.judge`)."""
