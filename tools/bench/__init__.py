"""The laboratory against TRL: `python -m tools.bench`."""
