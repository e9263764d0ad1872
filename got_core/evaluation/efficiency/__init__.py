"""What drawing an image costs: parameters, FLOPs, time by stage and memory, beside well-known pipelines."""
