"""Trackers: MLflow, and others that `tracking.also` names. Training talks to none; run folders are the truth and are delivered."""
