"""From what a model said to what may be claimed: scores, predictions, metrics, statistics."""
