"""What the laboratory needs of the machine it runs on: signals, forks, progress, secrets kept out of texts."""
