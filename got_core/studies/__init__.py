"""Studies: variants x backbones x seeds at equal steps, with intervals over the seeds."""
