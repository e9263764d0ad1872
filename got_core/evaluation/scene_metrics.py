"""Scores of drawn scenes as torchmetrics: plans, GenEval, layout and edits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from got_core.evaluation.geneval import CATEGORIES, Rules, shows
from got_core.evaluation.layout import colour_dominates, match_boxes
from got_core.evaluation.scene_detector import SCENE_RULES, SceneDetector
from got_core.evaluation.scene_edits import background_kept, edit_succeeds
from got_core.evaluation.scene_metric import SceneMetric, Values
from got_core.evaluation.scene_view import EDIT, TEXT_TO_IMAGE, SceneView, Sources, planned_object, view_scenes

GENEVAL = "geneval"
"""The key in `SceneScores` under which the six categories and their overall score stand."""


class ChainValidity(SceneMetric):
    """`chain_parses`: share of chains that have a region and nothing malformed."""

    names = ("chain_parses",)

    def measure(self, view: SceneView) -> Values:
        """1 or 0 for each image."""
        return {"chain_parses": [float(bool(view.chain.regions) and not view.chain.problems)]}


class ChainSatisfies(SceneMetric):
    """`chain_satisfies`: share of text-to-image plans that fulfil the prompt, were they drawn perfectly.

    The chain's regions are judged by GenEval's rules for the prompt: objects, counts, colours and relations.
    """

    names = ("chain_satisfies",)

    def measure(self, view: SceneView) -> Values:
        """1 or 0 for each text-to-image sample of GenEval's categories, for which its rules are made."""
        if not _of_geneval(view):
            return {}
        planned = [planned_object(region) for region in view.chain.regions]
        return {"chain_satisfies": [float(shows(view.meta, planned, SCENE_RULES, view.size)[0])]}


def _of_geneval(view: SceneView) -> bool:
    return view.meta["kind"] == TEXT_TO_IMAGE and view.meta["tag"] in CATEGORIES


class GenEvalAccuracy(SceneMetric):
    """GenEval's six categories, each a share of right images, and `overall`, the plain mean of those there are.

    Args:
        detector: Finds the objects.
        rules: Thresholds; the default suits the detector.
        **settings: torchmetrics' own settings.
    """

    names = CATEGORIES

    def __init__(self, detector: SceneDetector | None = None, rules: Rules = SCENE_RULES, **settings: Any) -> None:
        super().__init__(detector, **settings)
        self.rules = rules

    def measure(self, view: SceneView) -> Values:
        """1 or 0 in the category of each text-to-image sample of one of the six."""
        if not _of_geneval(view):
            return {}
        return {view.meta["tag"]: [float(shows(view.meta, view.found, self.rules, view.size)[0])]}

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The categories and `overall`."""
        return {**super().compute(), "overall": torch.nanmean(self.total / self.count)}


class LayoutAgreement(SceneMetric):
    """How well text-to-image drawings keep to their plan.

    `mean_iou`: over all planned boxes, the overlap with the found box that an optimal matching gives it, whatever its
    class; 0 where nothing is left to be matched. `object_position_deviation`: over the matched boxes, the distance of
    the two centres over the image's diagonal. `colour_in_box`: share of planned boxes with a colour that is dominant in
    them (`layout.colour_dominates`). A chain without boxes counts in none of these; `chain_parses` tells of it.
    """

    names = ("mean_iou", "object_position_deviation", "colour_in_box")

    def measure(self, view: SceneView) -> Values:
        """One value for each planned box, matched box, and planned box with a colour."""
        if view.meta["kind"] != TEXT_TO_IMAGE:
            return {}
        planned = [planned_object(region) for region in view.chain.regions]
        matched = match_boxes([entry.box for entry in planned], [entry.box for entry in view.found], view.size)
        painted = [region.colour for region in view.chain.regions]
        coloured = [replace(entry, colour=word or entry.colour) for entry, word in zip(planned, painted, strict=True)]
        return {
            "mean_iou": [pair.iou for pair in matched] + [0.0] * (len(planned) - len(matched)),
            "object_position_deviation": [pair.deviation for pair in matched],
            "colour_in_box": [float(colour_dominates(view.colours, entry)) for entry in coloured if entry.colour],
        }


class EditScore(SceneMetric):
    """`edit_success` and `background_kept` of edits, as `scene_edits` defines them."""

    names = ("edit_success", "background_kept")

    def measure(self, view: SceneView) -> Values:
        """Both figures for each edit.

        Raises:
            ValueError: An edit without its source image.
        """
        if view.meta["kind"] != EDIT:
            return {}
        return {"edit_success": [float(edit_succeeds(view))], "background_kept": [background_kept(view)]}


class SceneScores(nn.Module):
    """Every score of drawn scenes, the figures of `metrics.json`; each image is looked at once.

    Args:
        detector: Finds the objects; one for all shapes and colours when left out.
    """

    def __init__(self, detector: SceneDetector | None = None) -> None:
        super().__init__()
        self.detector = SceneDetector() if detector is None else detector
        self.validity = ChainValidity(self.detector)
        self.satisfies = ChainSatisfies(self.detector)
        self.layout = LayoutAgreement(self.detector)
        self.edits = EditScore(self.detector)
        self.geneval = GenEvalAccuracy(self.detector)

    @property
    def metrics(self) -> tuple[SceneMetric, ...]:
        """All of them, GenEval's last."""
        return self.validity, self.satisfies, self.layout, self.edits, self.geneval

    @property
    def update_called(self) -> bool:
        """Whether a batch was counted since the last reset."""
        return self.geneval.update_called

    def update(
        self,
        images: Float[Tensor, "b 3 H W"],
        chains: Sequence[str],
        metas: Sequence[Mapping[str, Any]],
        sources: Sources = None,
    ) -> None:
        """Count a batch; the arguments are those of `SceneMetric.update`."""
        views = view_scenes(self.detector, images, chains, metas, sources)
        for metric in self.metrics:
            metric.update(images, chains, metas, sources, views=views)

    def compute(self) -> dict[str, Any]:
        """The means as plain numbers, ready for JSON; those of GenEval in a mapping of their own.

        A figure that no sample had a value of (edits, where there were none) is left out.
        """
        figures: dict[str, Any] = {}
        for metric in self.metrics[:-1]:
            figures |= _plain(metric.compute())
        return {**figures, GENEVAL: _plain(self.geneval.compute())}

    def reset(self) -> None:
        """Forget what was counted."""
        for metric in self.metrics:
            metric.reset()


def _plain(means: Mapping[str, Float[Tensor, ""]]) -> dict[str, float]:
    return {name: float(mean) for name, mean in means.items() if not mean.isnan()}
