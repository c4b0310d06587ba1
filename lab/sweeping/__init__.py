"""Many arms over one base: Hydra's sweeper and launchers, the arms of a sweep, and what makes them comparable."""
