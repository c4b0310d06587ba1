"""Many arms over one base: the Hydra launcher, the arms of a sweep, and what makes them comparable."""
