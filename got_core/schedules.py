"""Learning rates over a run."""

import math


def warmup_cosine(step: int, warmup: int, total: int, final: float) -> float:
    """Factor of the peak learning rate at a step: linear from 0 to 1, then a cosine down to `final` at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
