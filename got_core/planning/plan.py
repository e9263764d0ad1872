"""A plan: a prompt and the chain that an image is generated from; shown, changed in words, and used again."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from got_core.chain import edits as chain_edits
from got_core.chain.parser import Chain, Region, parse
from got_core.types import Sample


@dataclass(frozen=True, eq=False)
class Plan:
    """A reasoning chain with what it was written for. Its methods return changed plans and leave it as it is.

    Methods that change what is drawn, not where, drop a caption, which would speak of what is no longer planned;
    without one the reasoner is told the chain's phrases.

    Regions are counted from 0 in the order of the chain; boxes are (x1, y1, x2, y2) in thousandths of the image.

    Attributes:
        prompt: Caption or instruction; may be empty.
        chain: In any form that `got_core.chain.parser` reads.
        size: (height, width) in pixels of the image to be drawn.
        source: The image to be edited, in [-1, 1] and of that size; None for text-to-image.
        earlier: What was asked in the turns before, the first first.
    """

    prompt: str
    chain: str
    size: tuple[int, int]
    source: Float[Tensor, "3 H W"] | None = None
    earlier: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan) or self._told() != other._told():
            return False
        first, second = self.source, other.source
        return first is second or (first is not None and second is not None and torch.equal(first, second))

    def __hash__(self) -> int:
        return hash(self._told())

    def _told(self) -> tuple[object, ...]:
        return self.prompt, self.chain, self.size, self.earlier

    @property
    def regions(self) -> tuple[Region, ...]:
        """The chain's phrases with their boxes and colours."""
        return self.read().regions

    @property
    def request(self) -> str:
        """What the reasoner is told: the prompt, or the phrases of a text-to-image plan that has none."""
        if self.prompt.strip() or self.source is not None:
            return self.prompt
        phrases = list(dict.fromkeys(region.phrase for region in self.regions))
        return " and ".join(part for part in (", ".join(phrases[:-1]), *phrases[-1:]) if part)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is malformed in the chain, and how it is read."""
        return self.read().problems

    def read(self) -> Chain:
        """The chain, parsed."""
        return parse(self.chain)

    def with_chain(self, chain: str | Chain) -> "Plan":
        """The same plan with another chain."""
        return replace(self, chain=chain if isinstance(chain, str) else chain.text)

    def rewritten(self, chain: str) -> "Plan":
        """The plan with a chain that was edited by hand."""
        written = self.with_chain(chain)
        before, after = ([(each.phrase, each.colour) for each in plan.regions] for plan in (self, written))
        return written if before == after else self._of_other_things(written.read())

    def move(self, index: int, *, dx: int = 0, dy: int = 0, to: tuple[int, int] | None = None) -> "Plan":
        """Move a region, as `got_core.chain.edits.move` does."""
        return self.with_chain(chain_edits.move(self.read(), index, dx=dx, dy=dy, to=to))

    def resize(self, index: int, box: Sequence[int]) -> "Plan":
        """Give a region another box, as `got_core.chain.edits.resize` does."""
        return self.with_chain(chain_edits.resize(self.read(), index, box))

    def replace(self, index: int, phrase: str) -> "Plan":
        """Put another object in a region's place, as `got_core.chain.edits.replace` does."""
        return self._of_other_things(chain_edits.replace(self.read(), index, phrase))

    def recolour(self, index: int, colour: str) -> "Plan":
        """Change a region's colour, as `got_core.chain.edits.recolour` does."""
        return self._of_other_things(chain_edits.recolour(self.read(), index, colour))

    def add(self, phrase: str, box: Sequence[int], colour: str | None = None) -> "Plan":
        """Add a region after the last one, as `got_core.chain.edits.add` does."""
        return self._of_other_things(chain_edits.add(self.read(), phrase, box, colour))

    def remove(self, index: int) -> "Plan":
        """Take a region out, as `got_core.chain.edits.remove` does."""
        return self._of_other_things(chain_edits.remove(self.read(), index))

    def _of_other_things(self, chain: Chain) -> "Plan":
        return replace(self, chain=chain.text, prompt=self.prompt if self.source is not None else "")

    def sample(self) -> Sample:
        """What a reasoner's processor makes a batch of."""
        return Sample(self.request, self.chain, self.size, source=self.source, earlier=self.earlier)


NUMBER = r"(-?\d+)"
BOX = rf"{NUMBER}[ ,]+{NUMBER}[ ,]+{NUMBER}[ ,]+{NUMBER}"

FORMS = (
    "move N DX DY",
    "move N to X Y",
    "resize N X1 Y1 X2 Y2",
    "replace N WORDS",
    "recolour N COLOUR",
    "add WORDS at X1 Y1 X2 Y2",
    "remove N",
)
"""What can be asked; regions N are counted from 0, places are thousandths of the image."""

_ACTIONS: Mapping[str, Callable[..., Plan]] = {
    rf"move (\d+) {NUMBER}[ ,]+{NUMBER}": lambda plan, n, dx, dy: plan.move(int(n), dx=int(dx), dy=int(dy)),
    rf"move (\d+) to {NUMBER}[ ,]+{NUMBER}": lambda plan, n, x, y: plan.move(int(n), to=(int(x), int(y))),
    rf"resize (\d+) {BOX}": lambda plan, n, *box: plan.resize(int(n), [int(edge) for edge in box]),
    r"replace (\d+) (.+)": lambda plan, n, words: plan.replace(int(n), words),
    r"recolou?r (\d+) (.+)": lambda plan, n, colour: plan.recolour(int(n), colour),
    rf"add (.+) at {BOX}": lambda plan, words, *box: plan.add(words, [int(edge) for edge in box]),
    r"remove (\d+)": lambda plan, n: plan.remove(int(n)),
}


def changed(plan: Plan, change: str) -> Plan:
    """The plan after a change, given in one of the `FORMS`.

    Raises:
        ValueError: It is in none of them, or cannot be made; the text says why.
    """
    text = " ".join(change.split())
    for pattern, action in _ACTIONS.items():
        if found := re.fullmatch(pattern, text, re.IGNORECASE):
            try:
                return action(plan, *found.groups())
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}") from error
    raise ValueError(f"{text!r} is no change of a plan; it may be {', '.join(FORMS)}")
