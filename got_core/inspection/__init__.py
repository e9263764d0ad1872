"""What a recipe costs, found out in shape alone: parameters, FLOPs, memory, time."""
