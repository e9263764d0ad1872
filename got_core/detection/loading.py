"""Detectors by name: that of rendered scenes, or a model of transformers, with thresholds and checksums."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from transformers import (
    AutoConfig,
    AutoProcessor,
    CLIPModel,
    CLIPProcessor,
    GroundingDinoForObjectDetection,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    Owlv2ForObjectDetection,
    OwlViTForObjectDetection,
)

from got_core.detection.base import (
    FROM,
    LOADING_ERRORS,
    MASK2FORMER,
    ClosedVocabulary,
    Detector,
    PhraseDetector,
    Rules,
    load_frozen,
    weight_files,
)
from got_core.detection.mask2former import ClipColours, Mask2FormerDetector
from got_core.detection.open_vocabulary import GroundingDinoDetector, OwlDetector
from got_core.detection.scenes import SCENE_RULES, SceneDetector
from got_core.errors import UserError, one_line
from got_core.paths import locate
from got_core.weights.files import checksum

D = TypeVar("D")

SCENES = "scenes"
"""Name of the detector of rendered scenes, which has no weights."""


@dataclass(frozen=True)
class GenEvalDetector:
    """A detector with GenEval's thresholds.

    Attributes:
        detector: Finds objects.
        rules: GenEval's thresholds for it.
        sources: What it was loaded from, by part.
        files: Its weights, by their names in results.
        input: The sizes that images are resized to for the detector; empty where they are not resized.
    """

    detector: Detector
    rules: Rules
    sources: dict[str, str]
    files: dict[str, Path] = field(default_factory=dict)
    input: dict[str, int] = field(default_factory=dict)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What results report of it. Detectors that differ only in their sources (`FROM`) are the same."""
        return {
            FROM: self.sources,
            "detector": type(self.detector).__name__,
            "rules": asdict(self.rules),
            "input": self.input,
            "weights": {name: checksum(file) for name, file in self.files.items()},
        }


def load_geneval_detector(detector: str, clip: str) -> GenEvalDetector:
    """Load the detector of rendered scenes, or Mask2Former with CLIP for the colours.

    Args:
        detector: `SCENES`, or a folder or hub id of a Mask2Former.
        clip: Folder or hub id of a CLIP; not used for scenes.

    Raises:
        UserError: One of them cannot be loaded.
    """
    if detector == SCENES:
        return GenEvalDetector(SceneDetector(), SCENE_RULES, {"detector": SCENES})
    sources = {"detector": detector, "colours": clip}
    model = load_frozen(Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, detector)
    colours = ClipColours(*load_frozen(CLIPModel, CLIPProcessor, clip))
    loaded = _built(Mask2FormerDetector, detector, *model, colours)
    files = {f"{part}/{file.name}": file for part, source in sources.items() for file in weight_files(source)}
    return GenEvalDetector(loaded, MASK2FORMER, sources, files, loaded.input)


FAMILIES: tuple[tuple[Any, Any, Callable[[Any, Any], PhraseDetector]], ...] = (
    (GroundingDinoForObjectDetection, AutoProcessor, GroundingDinoDetector),
    (OwlViTForObjectDetection, AutoProcessor, OwlDetector),
    (Owlv2ForObjectDetection, AutoProcessor, OwlDetector),
    (
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        lambda model, processor: ClosedVocabulary(Mask2FormerDetector(model, processor)),
    ),
)
"""Models that can be loaded, their processors, and the function that makes a detector of the two."""


@dataclass(frozen=True)
class LayoutDetector:
    """A detector of a plan's phrases, and what it was loaded from.

    Attributes:
        detector: Finds objects by phrases.
        source: `SCENES`, or a folder or hub id.
        kind: The model type of its configuration.
        files: Its weights, by their names in results.
    """

    detector: PhraseDetector
    source: str
    kind: str
    files: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What results report of it. Detectors that differ only in their sources (`FROM`) are the same."""
        return {
            FROM: {"detector": self.source},
            "detector": self.kind,
            "settings": dict(self.detector.settings),
            "weights": {name: checksum(file) for name, file in self.files.items()},
        }


def load_layout_detector(source: str) -> LayoutDetector:
    """Load the detector of rendered scenes, or a Grounding DINO, OWL-ViT, OWLv2 or Mask2Former.

    Args:
        source: `SCENES`, or a folder in transformers' layout or hub id, whose configuration has the model type.

    Raises:
        UserError: It cannot be loaded, or is none of these models.
    """
    if source == SCENES:
        return LayoutDetector(ClosedVocabulary(SceneDetector()), SCENES, SCENES)
    try:
        config = AutoConfig.from_pretrained(locate(source), trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise UserError(f"{source} cannot be loaded as a detector: {one_line(error)}") from error
    for family, processor, detector in FAMILIES:
        if isinstance(config, family.config_class):
            made = _built(detector, source, *load_frozen(family, processor, source))
            files = {f"detector/{file.name}": file for file in weight_files(source)}
            return LayoutDetector(made, source, config.model_type, files)
    kinds = ", ".join(family.__name__ for family, _, _ in FAMILIES)
    raise UserError(f"{source} is a {config.model_type}, not one of {kinds}, nor `{SCENES}`")


def _built(detector: Callable[..., D], source: str, *parts: Any) -> D:
    """A detector of its parts; a UserError where they do not fit."""
    try:
        return detector(*parts)
    except ValueError as error:
        raise UserError(f"{source}: {one_line(error)}") from error
