"""What an arm costs before it runs: FLOPs and memory."""
