"""Who judges: a detector, the thresholds made for it, and the files it was loaded from."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from got_core.evaluation.detection import Detector
from got_core.evaluation.geneval import MASK2FORMER, Rules
from got_core.evaluation.mask2former import Mask2FormerDetector
from got_core.evaluation.provenance import checksum
from got_core.evaluation.results_file import FROM
from got_core.evaluation.saved_judges import weights_of
from got_core.evaluation.scene_detector import SCENE_RULES, SceneDetector

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
