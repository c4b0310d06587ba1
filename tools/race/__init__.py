"""Races of simulated arms through the laboratory's own decision: how often the winner is kept, and what is saved."""
