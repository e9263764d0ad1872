"""How one image keeps to its plan, in figures."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from got_core.chain import Region
from got_core.evaluation.detection import Detection
from got_core.evaluation.layout import match_boxes
from got_core.evaluation.phrase_detection import PhraseDetector

HIT = 0.5
"""A planned box is hit by a found one that overlaps it at least so well."""


@dataclass(frozen=True)
class ImageLayout:
    """The sums that an image adds to the figures; none is negative.

    Attributes:
        planned: Boxes of the chain that the detector could look for.
        unasked: Boxes of the chain whose phrase names nothing that it could look for.
        found: Objects found, planned or not.
        matched: Planned boxes that were given a found box of the same label.
        iou: Sum of their overlaps.
        deviation: Sum of the distances of their centres, over the image's diagonal.
        hits: Matched boxes that overlap by `HIT` or more.
        any_label_iou: Sum of the overlaps when labels are not looked at.
    """

    planned: float = 0
    unasked: float = 0
    found: float = 0
    matched: float = 0
    iou: float = 0
    deviation: float = 0
    hits: float = 0
    any_label_iou: float = 0


COLUMNS = tuple(entry.name for entry in fields(ImageLayout))


def image_layout(
    regions: Sequence[Region], found: Sequence[Detection], detector: PhraseDetector, size: tuple[int, int]
) -> ImageLayout:
    """Hold what was found in an image of `size` (height, width) against the regions of its chain.

    Boxes are matched one to one within each label, so that their overlaps are the highest possible
    (`layout.match_boxes`); a pair that does not meet is matched too, the nearer the better.
    """
    labelled = [(detector.label(region.phrase), region.box) for region in regions]
    planned = [(label, box) for label, box in labelled if label is not None]
    matches = []
    for label in sorted({label for label, _ in planned}):
        boxes = [box for own, box in planned if own == label]
        matches += match_boxes(boxes, [entry.box for entry in found if entry.label == label], size)
    loosely = match_boxes([box for _, box in planned], [entry.box for entry in found], size)
    return ImageLayout(
        planned=len(planned),
        unasked=len(labelled) - len(planned),
        found=len(found),
        matched=len(matches),
        iou=sum(match.iou for match in matches),
        deviation=sum(match.deviation for match in matches),
        hits=sum(match.iou >= HIT for match in matches),
        any_label_iou=sum(match.iou for match in loosely),
    )
