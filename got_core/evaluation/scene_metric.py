"""The base of the scores of drawn scenes: means of named figures that reduce across ranks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from got_core.evaluation.scene_detector import SceneDetector
from got_core.evaluation.scene_view import SceneView, Sources, view_scenes

Values = Mapping[str, Sequence[float]]
"""Figures by name; none or several may come of one image."""


class SceneMetric(Metric, ABC):
    """Means of named figures; a figure that no sample had any value of is NaN.

    Attributes:
        names: The figures, as `compute` names them.

    Args:
        detector: Finds the objects; one for all default shapes and colours when left out.
        **settings: torchmetrics' own settings.
    """

    full_state_update = False
    names: ClassVar[tuple[str, ...]]
    total: Tensor
    count: Tensor

    def __init__(self, detector: SceneDetector | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.detector = SceneDetector() if detector is None else detector
        self.add_state("total", torch.zeros(len(self.names)), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(len(self.names)), dist_reduce_fx="sum")

    @abstractmethod
    def measure(self, view: SceneView) -> Values:
        """The figures of one image; a name left out counts nothing."""

    def update(
        self,
        images: Float[Tensor, "b 3 H W"],
        chains: Sequence[str],
        metas: Sequence[Mapping[str, Any]],
        sources: Sources = None,
        views: Sequence[SceneView] | None = None,
    ) -> None:
        """Count a batch.

        Args:
            images: The drawn images, in [-1, 1].
            chains: The chain each was drawn from.
            metas: The samples' metadata, as `got_core.data.scene_meta` makes it.
            sources: The images that were edited; what stands in the place of a text-to-image sample is not looked at.
            views: What `view_scenes` made of these very arguments, so that several metrics look only once.

        Raises:
            ValueError: Not as many chains, metadata or sources as images.
        """
        seen = view_scenes(self.detector, images, chains, metas, sources) if views is None else views
        for view in seen:
            for name, values in self.measure(view).items():
                place = self.names.index(name)
                self.total[place] += sum(values)
                self.count[place] += len(values)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The mean of each figure."""
        return dict(zip(self.names, self.total / self.count, strict=True))
