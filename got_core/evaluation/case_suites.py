"""A suite of cases: what is drawn, how, and which figures are taken of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from got_core.evaluation.case_drawing import CaseDrawing
from got_core.evaluation.cases import Case, CaseItems, Loaded, Pictures, Record
from got_core.evaluation.item_scoring import ItemScoring, Keeping
from got_core.evaluation.results_file import Better
from got_core.evaluation.scene_detector import SceneDetector

Measure = Callable[[Case, Pictures, Record, SceneDetector], Mapping[str, float]]
"""The figures of a case; those that it does not have are left out."""


@dataclass(frozen=True)
class CaseSuite:
    """What a suite is made of.

    Attributes:
        name: As results call it.
        figures: With the way that is better.
        shares: Figures that count how often something is so; where all cases agree, the interval is Wilson's.
        cases: Makes them, of (how many scenes, side of the images in pixels, seed, split).
        drawing: Draws them.
        measure: Looks at one.
    """

    name: str
    figures: Mapping[str, Better]
    shares: frozenset[str]
    cases: Callable[[int, int, int, str], list[Case]]
    drawing: type[CaseDrawing]
    measure: Measure


class CaseScoring(ItemScoring):
    """`trainer.test` looks at every case.

    Args:
        suite: Says at what.
        items: The cases.
        batch_size: Cases at a time.
        num_workers: Processes that read pictures.
        keeping: Where figures are kept.
    """

    def __init__(
        self, suite: CaseSuite, items: CaseItems, batch_size: int, num_workers: int = 0, keeping: Keeping | None = None
    ) -> None:
        super().__init__(items, tuple(suite.figures), batch_size, num_workers, keeping)
        self.cases: Sequence[Case] = items.cases
        self.measure = suite.measure
        self.detector = SceneDetector()

    def score(self, batch: list[Loaded]) -> None:
        """Look at some cases."""
        for place, pictures, record, problem in batch:
            if pictures is None:
                self.note(place, {})
                self.remark(place, problem)
            else:
                self.note(place, self.measure(self.cases[place], pictures, record, self.detector))
