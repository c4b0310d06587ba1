"""A laboratory for visual reasoning with fine-tuned vision-language models."""

__version__ = "0.1.0"
