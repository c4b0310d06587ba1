"""The training step in fewer operations, for float32 Llama blocks."""
