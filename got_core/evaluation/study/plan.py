"""A study as its file describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

Overrides = tuple[str, ...]
"""Values of a recipe as on the command line, such as `--model.backbone.depth=8`."""


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        name: What it is called in tables.
        options: Options of a recipe that are all given the same value.
        values: The values, in order.
    """

    name: str
    options: tuple[str, ...]
    values: tuple[float, ...]

    def settings(self, value: float) -> Overrides:
        """The options with one of the values."""
        return tuple(f"{option}={number(value)}" for option in self.options)


@dataclass(frozen=True)
class Grid:
    """Sampling settings that are tried in all combinations.

    Attributes:
        axes: One to three.
        overrides: What all points have in common.
    """

    axes: tuple[Axis, ...] = ()
    overrides: Overrides = ()

    def points(self) -> dict[str, Overrides]:
        """The overrides of each point by its name, the last axis first to change; none without axes."""
        found = {}
        for values in product(*(axis.values for axis in self.axes)) if self.axes else ():
            chosen = list(zip(self.axes, values, strict=True))
            settings = tuple(setting for axis, value in chosen for setting in axis.settings(value))
            found[point_name({axis.name: value for axis, value in chosen})] = (*self.overrides, *settings)
        return found


@dataclass(frozen=True)
class Split:
    """How the error is split into the plan's share and the drawing's.

    Attributes:
        given: The evaluation that draws from the samples' own chains, whose plans are right.
        figures: Shares of right drawings; each with the figure that scores the plan alone, or None where none does.
    """

    given: str
    figures: Mapping[str, str | None]


@dataclass(frozen=True)
class Study:
    """Which recipes are trained under which seeds, and how they are scored.

    Attributes:
        name: That of its file; its results lie in a folder of this name.
        title: A line for people.
        steps: Optimizer steps, the same for every run.
        seeds: Of initialisation, training samples and their order, noise and dropout, and the noise of validation.
        backbones: The recipe files of each backbone, later ones override earlier ones.
        variants: For each variant, its overrides for each backbone it is trained with.
        columns: The figures that are tabled: names in `metrics.json`, dotted inside a group.
        evaluations: Overrides under which trained runs are scored again, without training.
        grid: More of them, in all combinations.
        compare: The pairs of variants whose differences are estimated; all of them when None.
        split: How the error is split, if it is.
    """

    name: str
    title: str
    steps: int
    seeds: tuple[int, ...]
    backbones: Mapping[str, tuple[str, ...]]
    variants: Mapping[str, Mapping[str, Overrides]]
    columns: tuple[str, ...]
    evaluations: Mapping[str, Overrides] = field(default_factory=dict)
    grid: Grid = field(default_factory=Grid)
    compare: tuple[tuple[str, str], ...] | None = None
    split: Split | None = None

    @property
    def scorings(self) -> dict[str, Overrides]:
        """Evaluations and points of the grid, by name."""
        return {**self.evaluations, **self.grid.points()}

    @property
    def combinations(self) -> list[tuple[str, str]]:
        """(backbone, variant), backbone by backbone."""
        return [(backbone, name) for backbone in self.backbones for name, on in self.variants.items() if backbone in on]

    @property
    def figures(self) -> tuple[str, ...]:
        """All figures that are read: the columns, then those that only the split looks at."""
        split = () if self.split is None else (*self.split.figures, *filter(None, self.split.figures.values()))
        return tuple(dict.fromkeys((*self.columns, *split)))


def point_name(values: Mapping[str, float]) -> str:
    """The name of a point of a grid, such as `semantic=2,spatial=1.5`."""
    return ",".join(f"{name}={number(value)}" for name, value in values.items())


def number(value: float) -> str:
    """A number in full, a whole one without a point."""
    return str(int(value)) if float(value).is_integer() else repr(value)
