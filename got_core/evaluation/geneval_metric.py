"""GenEval's shares of right images as a metric."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from got_core.evaluation.results_file import OVERALL
from got_core.evaluation.verdicts import RIGHT, WRONG, Verdicts

VERDICTS = "verdicts"
"""In what the metric computes: the verdict on each image."""


class GenEvalMetric(Verdicts):
    """The share of right images in each category and overall, the plain mean of these; and every verdict.

    Args:
        categories: Of each image.
        **settings: torchmetrics' own settings.
    """

    def __init__(self, categories: Sequence[str], **settings: Any) -> None:
        super().__init__(len(categories), **settings)
        self.categories = tuple(categories)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """`VERDICTS`, the share of each category with an image that could be read, and `OVERALL` where there is one."""
        shares = {}
        for category in dict.fromkeys(self.categories):
            members = torch.tensor([own == category for own in self.categories], device=self.verdicts.device)
            seen = self.verdicts[members]
            seen = seen[(seen == RIGHT) | (seen == WRONG)]
            if len(seen):
                shares[category] = (seen == RIGHT).double().mean()
        overall = {OVERALL: torch.stack(list(shares.values())).mean()} if shares else {}
        return {VERDICTS: self.verdicts, **shares, **overall}
