"""What was answered: predictions, and how they are kept."""
