"""Detectors by name: that of drawn scenes, or a model of transformers, with thresholds and checksums."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoProcessor,
    GroundingDinoForObjectDetection,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    Owlv2ForObjectDetection,
    OwlViTForObjectDetection,
)

from got_core.detection.base import (
    FROM,
    MASK2FORMER,
    ClosedVocabulary,
    Detector,
    PhraseDetector,
    Rules,
    load_judge,
    weights_of,
)
from got_core.detection.mask2former import Mask2FormerDetector
from got_core.detection.open_vocabulary import GroundingDinoDetector, OwlDetector
from got_core.detection.scenes import SCENE_RULES, SceneDetector
from got_core.errors import UserError, one_line
from got_core.paths import locate
from got_core.weights.files import checksum

SCENES = "scenes"
"""Names the detector of drawn scenes, which has no weights."""


@dataclass(frozen=True)
class Judge:
    """A detector with its thresholds.

    Attributes:
        detector: Finds objects.
        rules: GenEval's thresholds for it.
        names: What it was loaded from, by its part.
        files: Its weights, by what they are called in results.
        input: The sizes that images are brought to before the detector sees them; empty where it sees them as they are.
    """

    detector: Detector
    rules: Rules
    names: dict[str, str]
    files: dict[str, Path] = field(default_factory=dict)
    input: dict[str, int] = field(default_factory=dict)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What results say of it: judges that differ only in the places they came `FROM` are the same."""
        return {
            FROM: self.names,
            "detector": type(self.detector).__name__,
            "rules": asdict(self.rules),
            "input": self.input,
            "weights": {name: checksum(file) for name, file in self.files.items()},
        }


def geneval_judge(detector: str, clip: str) -> Judge:
    """The detector of drawn scenes, or Mask2Former with CLIP for the colours.

    Args:
        detector: `SCENES`, or a folder or hub id of a Mask2Former.
        clip: Folder or hub id of a CLIP; not looked at for scenes.

    Raises:
        UserError: One of them cannot be loaded.
    """
    if detector == SCENES:
        return Judge(SceneDetector(), SCENE_RULES, {"detector": SCENES})
    places = {"detector": detector, "colours": clip}
    loaded = Mask2FormerDetector.from_saved(detector, clip)
    files = {f"{part}/{file.name}": file for part, place in places.items() for file in weights_of(place)}
    return Judge(loaded, MASK2FORMER, places, files, loaded.input)


def _closed(model: Any, processor: Any) -> PhraseDetector:
    return ClosedVocabulary(Mask2FormerDetector(model, processor))


FAMILIES: tuple[tuple[Any, Any, Callable[[Any, Any], PhraseDetector]], ...] = (
    (GroundingDinoForObjectDetection, AutoProcessor, GroundingDinoDetector),
    (OwlViTForObjectDetection, AutoProcessor, OwlDetector),
    (Owlv2ForObjectDetection, AutoProcessor, OwlDetector),
    (Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, _closed),
)
"""Models that are read, their processors, and what makes a detector of the two."""


@dataclass(frozen=True)
class PlanJudge:
    """A detector, and what it was loaded from.

    Attributes:
        detector: Finds objects by phrases.
        place: `SCENES`, or folder or hub id.
        kind: What its configuration calls it.
        files: Its weights, by what they are called in results.
    """

    detector: PhraseDetector
    place: str
    kind: str
    files: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What results say of it: judges that differ only in the places they came `FROM` are the same."""
        return {
            FROM: {"detector": self.place},
            "detector": self.kind,
            "settings": dict(self.detector.settings),
            "weights": {name: checksum(file) for name, file in self.files.items()},
        }


def load_plan_judge(place: str) -> PlanJudge:
    """The detector of drawn scenes, or a Grounding DINO, OWL-ViT, OWLv2 or Mask2Former.

    Args:
        place: `SCENES`, or a folder in transformers' layout or hub id; its configuration says which kind it is.

    Raises:
        UserError: It cannot be loaded, or is of no kind that finds objects here.
    """
    if place == SCENES:
        return PlanJudge(ClosedVocabulary(SceneDetector()), SCENES, SCENES)
    try:
        config = AutoConfig.from_pretrained(locate(place), trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise UserError(f"{place} cannot be loaded as a detector: {one_line(error)}") from error
    for family, processor, detector in FAMILIES:
        if isinstance(config, family.config_class):
            try:
                made = detector(*load_judge(family, processor, place))
            except ValueError as error:
                raise UserError(f"{place}: {one_line(error)}") from error
            files = {f"detector/{file.name}": file for file in weights_of(place)}
            return PlanJudge(made, place, config.model_type, files)
    kinds = ", ".join(family.__name__ for family, _, _ in FAMILIES)
    raise UserError(f"{place} is a {config.model_type}, not one of {kinds}, nor `{SCENES}`")
