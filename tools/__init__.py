"""What makes and measures the laboratory but is no part of it: not in the wheel, run from a checkout."""
