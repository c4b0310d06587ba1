"""One module a family of checkpoints."""
