"""What a recipe costs, computed in shape alone: parameters, FLOPs, memory and time."""
