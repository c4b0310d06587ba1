"""What numbers say: metrics, intervals, paired tests, claims. Knows nothing of training."""
