"""What is kept: run folders."""
