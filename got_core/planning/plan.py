"""A plan: a prompt and the chain from which an image is generated. It can be shown, changed and used again.

The limits of prompts and chains hold wherever they come from: a call, a command line, a record or a visitor.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from got_core.chain import edits as chain_edits
from got_core.chain.parser import Chain, Region, parse
from got_core.types import Sample, Step

LONGEST_PROMPT = 10_000
"""Characters."""

LONGEST_CHAIN = 100_000
"""Characters."""

MOST_BOXES = 1_000
"""Boxes of one chain."""


def check_prompt(prompt: str) -> None:
    """Check the length of a prompt (ValueError: it has more than `LONGEST_PROMPT` characters)."""
    if len(prompt) > LONGEST_PROMPT:
        raise ValueError(f"the prompt has {len(prompt):,} characters; at most {LONGEST_PROMPT:,} are allowed")


def check_chain(chain: str) -> None:
    """Check the size of a chain.

    Raises:
        ValueError: It has more than `LONGEST_CHAIN` characters or more than `MOST_BOXES` boxes.
    """
    if len(chain) > LONGEST_CHAIN:
        raise ValueError(f"the chain has {len(chain):,} characters; at most {LONGEST_CHAIN:,} are allowed")
    if (count := len(parse(chain).regions)) > MOST_BOXES:
        raise ValueError(f"the chain has {count:,} boxes; at most {MOST_BOXES:,} are allowed")


class _Read(NamedTuple):
    """The states of a plan, who read them, and what the plan was then."""

    reader: object
    content: tuple[object, ...]
    images: tuple[Tensor | None, ...]
    states: Float[Tensor, "n d"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A reasoning chain with its prompt. Its methods return changed plans and leave it as it is.

    Methods that change objects, not their boxes, drop the caption, because it would name objects that are no longer
    planned. Without a caption the reasoner gets the chain's phrases.

    Regions are counted from 0 in the order of the chain; boxes are (x1, y1, x2, y2) in thousandths of the image.

    Attributes:
        prompt: Caption or instruction; may be empty.
        chain: In any form that `got_core.chain.parser` reads.
        size: (height, width) in pixels of the image to be generated.
        source: The image to be edited, in [-1, 1] and of any size; None for text-to-image.
        earlier: The requests of earlier turns, the first one first.
        steps: Where the request takes several images, those before this one (`GoTPipeline.steps`).

    Example:
        >>> Plan("a dog", "a dog (100,200),(300,400)", (512, 512)).move(0, dx=50).chain
        'a dog (150,200),(350,400)'
    """

    prompt: str
    chain: str
    size: tuple[int, int]
    source: Float[Tensor, "3 h w"] | None = None
    earlier: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    _read: _Read | None = field(default=None, repr=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan) or self._content() != other._content():
            return False
        images = zip(self._images(), other._images(), strict=True)
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in images)

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[object, ...]:
        return self.prompt, self.chain, self.size, self.earlier, tuple(step.chain for step in self.steps)

    def _images(self) -> tuple[Tensor | None, ...]:
        return self.source, *(step.image for step in self.steps)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The chain's phrases with their boxes and colours."""
        return self.read().regions

    @property
    def request(self) -> str:
        """The prompt for the reasoner; the phrases of a text-to-image plan that has none."""
        if self.prompt.strip() or self.source is not None:
            return self.prompt
        phrases = list(dict.fromkeys(region.phrase for region in self.regions))
        return " and ".join(part for part in (", ".join(phrases[:-1]), *phrases[-1:]) if part)

    @property
    def problems(self) -> tuple[str, ...]:
        """The malformed parts of the chain, and how they are read."""
        return self.read().problems

    def read(self) -> Chain:
        """Parse the chain."""
        return parse(self.chain)

    def with_states(self, reader: object, states: Float[Tensor, "n d"]) -> "Plan":
        """Return the plan with a reasoner's summary of its chain, so that it need not be read again.

        Args:
            reader: Stands for the reasoner and its weights.
            states: Of the plan as it is now.
        """
        return replace(self, _read=_Read(reader, self._content(), self._images(), states))

    def states(self, reader: object) -> Float[Tensor, "n d"] | None:
        """Return what this reader has read of this very plan; None if it has not, or the plan has been changed."""
        read = self._read
        if read is None or read.reader is not reader or read.content != self._content():
            return None
        same = all(one is other for one, other in zip(read.images, self._images(), strict=True))
        return read.states if same else None

    def with_chain(self, chain: str | Chain) -> "Plan":
        """Return the plan with another chain."""
        return replace(self, chain=chain if isinstance(chain, str) else chain.text)

    def rewritten(self, chain: str) -> "Plan":
        """Return the plan with a chain that was edited by hand."""
        written = self.with_chain(chain)
        before, after = ([(each.phrase, each.colour) for each in plan.regions] for plan in (self, written))
        return written if before == after else self._with_objects_of(written.read())

    def move(self, index: int, *, dx: int = 0, dy: int = 0, to: tuple[int, int] | None = None) -> "Plan":
        """Move a region, as `got_core.chain.edits.move` does."""
        return self.with_chain(chain_edits.move(self.read(), index, dx=dx, dy=dy, to=to))

    def resize(self, index: int, box: Sequence[int]) -> "Plan":
        """Give a region another box, as `got_core.chain.edits.resize` does."""
        return self.with_chain(chain_edits.resize(self.read(), index, box))

    def replace(self, index: int, phrase: str) -> "Plan":
        """Put another object in a region's place, as `got_core.chain.edits.replace` does."""
        return self._with_objects_of(chain_edits.replace(self.read(), index, phrase))

    def recolour(self, index: int, colour: str) -> "Plan":
        """Change a region's colour, as `got_core.chain.edits.recolour` does."""
        return self._with_objects_of(chain_edits.recolour(self.read(), index, colour))

    def add(self, phrase: str, box: Sequence[int], colour: str | None = None) -> "Plan":
        """Add a region after the last one, as `got_core.chain.edits.add` does."""
        return self._with_objects_of(chain_edits.add(self.read(), phrase, box, colour))

    def remove(self, index: int) -> "Plan":
        """Take a region out, as `got_core.chain.edits.remove` does."""
        return self._with_objects_of(chain_edits.remove(self.read(), index))

    def _with_objects_of(self, chain: Chain) -> "Plan":
        return replace(self, chain=chain.text, prompt=self.prompt if self.source is not None else "")

    def sample(self) -> Sample:
        """Make the sample for a reasoner's processor."""
        return Sample(self.request, self.chain, self.size, source=self.source, earlier=self.earlier, steps=self.steps)


_NUMBER = r"(-?\d+)"
_BOX = rf"{_NUMBER}[ ,]+{_NUMBER}[ ,]+{_NUMBER}[ ,]+{_NUMBER}"

CHANGES: Mapping[str, tuple[str, Callable[..., Plan]]] = {
    "move N DX DY": (
        rf"move (\d+) {_NUMBER}[ ,]+{_NUMBER}",
        lambda plan, n, dx, dy: plan.move(int(n), dx=int(dx), dy=int(dy)),
    ),
    "move N to X Y": (
        rf"move (\d+) to {_NUMBER}[ ,]+{_NUMBER}",
        lambda plan, n, x, y: plan.move(int(n), to=(int(x), int(y))),
    ),
    "resize N X1 Y1 X2 Y2": (rf"resize (\d+) {_BOX}", lambda plan, n, *box: plan.resize(int(n), [*map(int, box)])),
    "replace N WORDS": (r"replace (\d+) (.+)", lambda plan, n, words: plan.replace(int(n), words)),
    "recolour N COLOUR": (r"recolou?r (\d+) (.+)", lambda plan, n, colour: plan.recolour(int(n), colour)),
    "add WORDS at X1 Y1 X2 Y2": (rf"add (.+) at {_BOX}", lambda plan, words, *box: plan.add(words, [*map(int, box)])),
    "remove N": (r"remove (\d+)", lambda plan, n: plan.remove(int(n))),
}
"""The forms of changes in words: pattern and function of each."""


def changed(plan: Plan, change: str) -> Plan:
    """Change a plan.

    Args:
        plan: The plan.
        change: In one of the forms of `CHANGES`. Regions N count from 0, coordinates are thousandths of the image.

    Raises:
        ValueError: The change has no such form, or cannot be made; the message says why.
    """
    text = " ".join(change.split())
    for pattern, action in CHANGES.values():
        if match := re.fullmatch(pattern, text, re.IGNORECASE):
            try:
                return action(plan, *match.groups())
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}") from error
    raise ValueError(f"{text!r} is no change of a plan; it may be {', '.join(CHANGES)}")
