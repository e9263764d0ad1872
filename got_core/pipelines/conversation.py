"""A conversation about a picture: each turn is planned and drawn on what stands; turns can be undone and branched.

The turns are a tree. Each knows the one it goes on from; the last picture is what the next turn edits, and the requests
that led to it are told to the reasoner beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from warnings import warn

from PIL import Image

from got_core.data.images import ImageLike, image_tensor
from got_core.data.visualization import to_pil
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan

UNREAD = (
    "this model's reasoner sees the picture but is not told what was asked before (its editing_template has no "
    '{earlier}), so it cannot know what "it" is: name the objects'
)


@dataclass(frozen=True)
class Turn:
    """What was asked, how it was planned and what was drawn.

    Attributes:
        number: Its place in the order of all turns.
        plan: None for a picture that was brought along.
        image: The picture after this turn.
        seed: Of its noise.
        before: The turn it goes on from; None for the first of a conversation.
    """

    number: int
    plan: Plan | None
    image: Image.Image
    seed: int
    before: "Turn | None" = field(default=None, repr=False)

    def path(self) -> tuple["Turn", ...]:
        """The turns that led here, the first one first, this one last."""
        turns: list[Turn] = [self]
        while (before := turns[-1].before) is not None:
            turns.append(before)
        return tuple(reversed(turns))

    @property
    def requests(self) -> tuple[str, ...]:
        """What was asked on the way here, the first request first."""
        return tuple(turn.plan.request for turn in self.path() if turn.plan is not None)


class Conversation:
    """Turns about one picture.

    Args:
        pipeline: Plans and draws.
        image: A picture to begin with; without one the first turn draws it.
    """

    def __init__(self, pipeline: GoTPipeline, image: ImageLike | None = None) -> None:
        self.pipeline = pipeline
        self.turns: list[Turn] = []
        self.current: Turn | None = None
        if image is not None:
            self.append(None, to_pil(image_tensor(image, pipeline.size)), 0)

    def __iter__(self) -> Iterator[Turn]:
        return iter(self.turns)

    @property
    def image(self) -> Image.Image | None:
        """The picture as it stands."""
        return None if self.current is None else self.current.image

    def plan(self, request: str, *, seed: int = 0, **planning: Any) -> Plan:
        """Plan the next turn, which sees the picture as it stands and what was asked on the way there.

        Args:
            request: Caption of the first drawing, or instruction.
            seed, planning: Arguments of `GoTPipeline.plan`.
        """
        earlier = () if self.current is None else self.current.requests
        if earlier and not self.pipeline.model.reasoner.reads_earlier:
            warn(UNREAD, stacklevel=2)
        return self.pipeline.plan(request, self.image, seed=seed, earlier=earlier, **planning)[0]

    def generate(self, plan: Plan, *, seed: int = 0, **drawing: Any) -> Turn:
        """Draw a plan of this conversation, which may have been changed, as the next turn.

        Args:
            plan: From `plan`.
            seed, drawing: Arguments of `GoTPipeline.generate`, but for `output_type`.
        """
        (image,) = self.pipeline.generate(plan, seed=seed, **drawing).images
        return self.append(plan, image, seed)

    def say(self, request: str, *, seed: int = 0, temperature: float = 0.0, **drawing: Any) -> Turn:
        """Plan and draw the next turn.

        Args:
            request: Caption of the first drawing, or instruction.
            seed, temperature, drawing: Arguments of `GoTPipeline.plan` and `GoTPipeline.generate`.
        """
        return self.generate(self.plan(request, seed=seed, temperature=temperature), seed=seed, **drawing)

    def undo(self) -> Turn | None:
        """Go back to the turn before; returns it, or None at the beginning. What was undone stays among the turns."""
        if self.current is not None:
            self.current = self.current.before
        return self.current

    def go_to(self, number: int) -> Turn:
        """Go to any turn; the next one branches off there.

        Raises:
            ValueError: There is no turn of that number.
        """
        if not 0 <= number < len(self.turns):
            raise ValueError(f"there is no turn {number}: there are {len(self.turns)}, counted from 0")
        self.current = self.turns[number]
        return self.current

    def append(self, plan: Plan | None, image: Image.Image, seed: int) -> Turn:
        """Take a picture that is there already as the next turn."""
        turn = Turn(len(self.turns), plan, image, seed, self.current)
        self.turns.append(turn)
        self.current = turn
        return turn
