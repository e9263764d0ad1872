"""Training under Lightning: the system, recipes, checkpoints, averages and sharding."""
