"""Scores of drawn scenes as torchmetrics: plans, GenEval, layout and edits."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric

from got_core.chain.parser import Chain, Region, parse
from got_core.data.scenes.render import COLOURS, SHAPES
from got_core.detection.base import CATEGORIES, UNKNOWN, Detection, Rules, relations, shows
from got_core.detection.scenes import SCENE_RULES, ColourMap, SceneDetector
from got_core.evaluation.metrics.boxes import colour_dominates, match_boxes
from got_core.planning.boxes import AnyBox, box_iou, pixels_of

TEXT_TO_IMAGE, EDIT = "t2i", "edit"
"""The kinds of samples, by `kind` in their metadata."""

Sources = Float[Tensor, "b 3 H W"] | Sequence[Float[Tensor, "3 H W"] | None] | None
"""The images that were edited, one a sample; None, or anything, for a text-to-image sample."""

_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class SceneView:
    """A generated image with its plan, and the objects in it.

    Attributes:
        image: In [-1, 1].
        source: The edited image; black or None for text-to-image, None where none is given.
        chain: The chain that it was generated from.
        meta: The sample's metadata, as `got_core.data.scenes.compose` makes it.
        colours: The image by colour.
        detected: The objects in the image.
    """

    image: Float[Tensor, "3 H W"]
    source: Float[Tensor, "3 H W"] | None
    chain: Chain
    meta: Mapping[str, Any]
    colours: ColourMap
    detected: tuple[Detection, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.image.shape[-2], self.image.shape[-1]


def view_scenes(
    detector: SceneDetector,
    images: Float[Tensor, "b 3 H W"],
    chains: Sequence[str],
    metas: Sequence[Mapping[str, Any]],
    sources: Sources = None,
) -> list[SceneView]:
    """Detect the objects of a batch of images in [-1, 1].

    Raises:
        ValueError: Not as many chains, metadata or sources as images.
    """
    given = {"images": len(images), "chains": len(chains), "metas": len(metas)}
    given |= {} if sources is None else {"sources": len(sources)}
    if len(set(given.values())) > 1:
        raise ValueError(f"scores need one entry for each image: {', '.join(f'{v} {k}' for k, v in given.items())}")
    return [
        SceneView(
            image=images[i],
            source=None if sources is None else sources[i],
            chain=parse(chains[i]),
            meta=metas[i],
            colours=colours,
            detected=tuple(detector.objects(colours)),
        )
        for i, colours in enumerate(detector.colour_maps(images))
    ]


def planned_object(region: Region) -> Detection:
    """Return a region of a chain as a detection: the shape and the colour that its phrase and colour name.

    The last shape that is named counts, singular or plural; without one it is `UNKNOWN`. If the phrase names one colour
    and the colour after the box is another, the plan contradicts itself and the colour is None.
    """
    words = _WORD.findall(region.phrase.lower())
    shapes = [shape for word in words for shape in SHAPES if word in (shape, f"{shape}s", f"{shape}es")]
    named = {word for word in words if word in COLOURS} | ({region.colour} if region.colour else set())
    colour = named.pop() if len(named) == 1 else None
    x1, y1, x2, y2 = region.box
    return Detection(shapes[-1] if shapes else UNKNOWN, colour, (x1, y1, x2, y2), 1.0)


Values = Mapping[str, Sequence[float]]
"""Scores by metric; an image may have none or several of one."""


class SceneMetric(Metric, ABC):
    """Means of named metrics; NaN for a metric that no sample has.

    Attributes:
        names: The metrics, as `compute` names them.

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
        """Return the scores of one image; a metric that is left out counts nothing."""

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
            images: In [-1, 1].
            chains: The chain of each image.
            metas: The samples' metadata, as `got_core.data.scenes.compose` makes it.
            sources: The edited images; that of a text-to-image sample is not used.
            views: What `view_scenes` returns, so that several metrics detect objects only once; the other arguments
                are then not used.

        Raises:
            ValueError: Not as many chains, metadata or sources as images.
        """
        seen = view_scenes(self.detector, images, chains, metas, sources) if views is None else views
        for view in seen:
            for name, values in self.measure(view).items():
                index = self.names.index(name)
                self.total[index] += sum(values)
                self.count[index] += len(values)

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Return the mean of each metric."""
        return dict(zip(self.names, self.total / self.count, strict=True))


IN_PLACE = 0.3
"""Two boxes overlap by at least this (intersection over union) when their objects count as in the same place."""

SAME_BOX = 0.5
"""An object that no edit concerns is as it was only if its box and its previous one have at least this IoU."""

KEPT_WITHIN = 0.1
"""A pixel is unchanged if no channel differs by more than this fraction of the range from black to white."""

BACKGROUND = 0.95
"""An edit succeeds only if at least this fraction of the background is kept."""

MARGIN = 1
"""Pixels around a changed box that are left out: edges are smooth."""

EDIT_RULE = {
    "in_place": IN_PLACE,
    "same_box": SAME_BOX,
    "kept_within": KEPT_WITHIN,
    "background": BACKGROUND,
    "margin": MARGIN,
}
"""The thresholds of `edit_succeeds`, which results name: scores by others are not used again, nor compared."""


@dataclass(frozen=True)
class _Outcome:
    """What became of an edit's objects.

    Attributes:
        results: The object that fulfils each edit; None where there is none, as for one that was removed.
        others_kept: Whether every other object of the source is as it was.
        new: Objects that are neither.
    """

    results: list[Detection | None]
    others_kept: bool
    new: list[Detection]


def edit_succeeds(view: SceneView) -> bool:
    """Return whether every requested edit was made, and nothing else.

    The changes were made:

    - Added: an object of the class and colour is there; in the requested relation, if any.
    - Removed: the object is not there.
    - Recoloured, replaced: an object of the new class and colour is in its place (IoU of the boxes `IN_PLACE`).
    - Moved: an object of the class and colour is in the requested relation.

    Every other object of the source is there with its class, its colour and its box (IoU `SAME_BOX`). There is no
    further object of any class, so that nothing stands where one was removed or moved away. And `background_kept` is
    at least `BACKGROUND`.

    Raises:
        ValueError: No source image was given.
    """
    outcome = _outcome(view)
    made = all(
        result is not None or edit["result"] is None
        for edit, result in zip(view.meta["edits"], outcome.results, strict=True)
    )
    return made and outcome.others_kept and not outcome.new and background_kept(view) >= BACKGROUND


def background_kept(view: SceneView) -> float:
    """Return the fraction of pixels outside the changed boxes that are as in the source (`KEPT_WITHIN`).

    Changed boxes are the old and the new box of each edited object: where it was in the source, and where the object
    is that fulfils the edit; where none does, where the true target has it. 1 where these boxes leave no pixel.

    Raises:
        ValueError: No source image was given.
    """
    if view.source is None:
        raise ValueError("an edit is scored against its source image, but none was given: pass sources")
    edits = view.meta["edits"]
    changed = [edit["object"]["box"] for edit in edits if edit["object"] is not None]
    for edit, result in zip(edits, _outcome(view).results, strict=True):
        if edit["result"] is not None:
            changed.append(edit["result"]["box"] if result is None else result.box)
    height, width = view.size
    outside = torch.ones(height, width, dtype=torch.bool, device=view.image.device)
    for box in changed:
        outside[pixels_of(box, view.size, MARGIN)] = False
    difference = reduce((view.image - view.source).abs() / 2, "c h w -> h w", "max")
    unchanged = (difference <= KEPT_WITHIN)[outside]
    return float(unchanged.float().mean()) if len(unchanged) else 1.0


def _outcome(view: SceneView) -> _Outcome:
    """Find the source's other objects in the image, then the results of the edits among the objects that are left."""
    edits, left = view.meta["edits"], list(view.detected)
    edited = [edit["object"] for edit in edits]
    kept = True
    for entry in view.meta["source_objects"]:
        if entry in edited:
            continue
        alike = [other for other in _alike(left, entry) if box_iou(other.box, entry["box"]) >= SAME_BOX]
        kept = kept and bool(alike)
        if alike:
            left.remove(max(alike, key=lambda other: box_iou(other.box, entry["box"])))
    results = []
    for edit in edits:
        result = _result(left, edit, view.size)
        results.append(result)
        if result is not None:
            left.remove(result)
    return _Outcome(results, kept, left)


def _result(detected: Sequence[Detection], edit: Mapping[str, Any], size: tuple[int, int]) -> Detection | None:
    """The object that fulfils an edit, or None."""
    wanted = edit["result"]
    alike = [] if wanted is None else _alike(detected, wanted)
    return next((entry for entry in alike if _stands_right(entry.box, edit, size)), None)


def _alike(detected: Sequence[Detection], entry: Mapping[str, Any]) -> list[Detection]:
    """The detected objects of an entry's class and colour."""
    return [other for other in detected if (other.label, other.colour) == (entry["shape"], entry["color"])]


def _stands_right(box: AnyBox, edit: Mapping[str, Any], size: tuple[int, int]) -> bool:
    if edit["position"] is not None:
        relation, other = edit["position"]
        return relation in relations(box, other, size=size)
    return edit["object"] is None or box_iou(box, edit["object"]["box"]) >= IN_PLACE


GENEVAL = "geneval"
"""The key in `SceneScores` under which the six categories and their overall score stand."""


class ChainValidity(SceneMetric):
    """`chain_parses`: fraction of chains that have a region and nothing malformed."""

    names = ("chain_parses",)

    def measure(self, view: SceneView) -> Values:
        """1 or 0 for each image."""
        return {"chain_parses": [float(bool(view.chain.regions) and not view.chain.problems)]}


class ChainSatisfies(SceneMetric):
    """`chain_satisfies`: fraction of text-to-image plans of which a perfect image would fulfil the prompt.

    The chain's regions are scored by GenEval's rules for the prompt: objects, counts, colours and relations.
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
    """GenEval's six categories, each a fraction of right images, and `overall`, the plain mean of those there are.

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
        return {view.meta["tag"]: [float(shows(view.meta, view.detected, self.rules, view.size)[0])]}

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The categories and `overall`."""
        return {**super().compute(), "overall": torch.nanmean(self.total / self.count)}


class LayoutAgreement(SceneMetric):
    """How well text-to-image samples keep to their plan.

    `mean_iou`: over all planned boxes, the overlap with the detected box that an optimal matching gives it, whatever
    its class; 0 where no box is left. `object_position_deviation`: over the matched boxes, the distance of the two
    centres over the image's diagonal. `colour_in_box`: fraction of planned boxes with a colour that is dominant in them
    (`colour_dominates`). A chain without boxes counts in none of these; `chain_parses` counts it.
    """

    names = ("mean_iou", "object_position_deviation", "colour_in_box")

    def measure(self, view: SceneView) -> Values:
        """One value for each planned box, matched box, and planned box with a colour."""
        if view.meta["kind"] != TEXT_TO_IMAGE:
            return {}
        planned = [planned_object(region) for region in view.chain.regions]
        matched = match_boxes([entry.box for entry in planned], [entry.box for entry in view.detected], view.size)
        painted = [region.colour for region in view.chain.regions]
        coloured = [replace(entry, colour=word or entry.colour) for entry, word in zip(planned, painted, strict=True)]
        return {
            "mean_iou": [pair.iou for pair in matched] + [0.0] * (len(planned) - len(matched)),
            "object_position_deviation": [pair.deviation for pair in matched],
            "colour_in_box": [float(colour_dominates(view.colours, entry)) for entry in coloured if entry.colour],
        }


class EditScore(SceneMetric):
    """`edit_success` and `background_kept` of edits, by `edit_succeeds` and `background_kept`."""

    names = ("edit_success", "background_kept")

    def measure(self, view: SceneView) -> Values:
        """Return both scores of each edit.

        Raises:
            ValueError: An edit without its source image.
        """
        if view.meta["kind"] != EDIT:
            return {}
        return {"edit_success": [float(edit_succeeds(view))], "background_kept": [background_kept(view)]}


class SceneScores(nn.Module):
    """Every score of scenes, the metrics of `metrics.json`; objects of each image are detected once.

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
        self.count(view_scenes(self.detector, images, chains, metas, sources))

    def count(self, views: Sequence[SceneView]) -> None:
        """Count images whose objects were detected; there may be none."""
        for metric in self.metrics:
            metric.update(torch.zeros(0, 3, 1, 1), (), (), views=views)

    def compute(self) -> dict[str, Any]:
        """Return the means as plain numbers for JSON; those of GenEval in a mapping of their own.

        A metric that no sample has (those of edits, without edits) is left out.
        """
        means: dict[str, Any] = {}
        for metric in self.metrics[:-1]:
            means |= _plain(metric.compute())
        return {**means, GENEVAL: _plain(self.geneval.compute())}

    def reset(self) -> None:
        """Start counting again."""
        for metric in self.metrics:
            metric.reset()


def _plain(means: Mapping[str, Float[Tensor, ""]]) -> dict[str, float]:
    return {name: float(mean) for name, mean in means.items() if not mean.isnan()}
