"""What one visitor does: a conversation, the plan on the canvas, undo; and which page has which session."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock

from PIL import Image

from got_core.chain.dialects import from_readable, readable
from got_core.errors import one_line
from got_core.interfaces import ChainListener
from got_core.pipelines.conversation import Conversation, Turn
from got_core.pipelines.inpainting import PreviousImages
from got_core.pipelines.output import GoTPipelineOutput
from got_core.pipelines.pipeline import GoTPipeline, StepCallback
from got_core.planning.check import PlanProblem, plan_problems, repaired
from got_core.planning.plan import Plan
from got_core.studio.files import Saved
from got_core.studio.plan_actions import Action
from got_core.studio.settings import Limits, Refused, Settings, checked_text

CHANGES_KEPT = 100
"""Changes of a plan that can be undone."""

PATIENCE = 0.5
"""Seconds that a request waits for another of the same visitor's to end."""


class Session:
    """One visitor's work; nothing of it is shared with another's.

    Args:
        pipeline: Plans and draws, for all visitors.
        limits: What may be asked.

    Attributes:
        talk: The turns so far.
        plan: The one on the canvas, which may have been changed since it was written or drawn.
        basis: The turn that plan goes on from; None for text-to-image.
        settings: How each turn was drawn, by its number.
        redrawn: Which turn a turn is another version of, by number.
        stop: Set to end the work in progress.
    """

    def __init__(self, pipeline: GoTPipeline, limits: Limits) -> None:
        self.pipeline = pipeline
        self.limits = limits
        self.stop = Event()
        self.plan: Plan | None = None
        self.basis: Turn | None = None
        self._working = Lock()
        self._begin(Conversation(pipeline))

    @property
    def image(self) -> Image.Image | None:
        """The picture as it stands."""
        return self.talk.image

    @property
    def kept_bytes(self) -> int:
        """Memory of its pictures, roughly: one a turn, and one in floating point that it was made from."""
        height, width = self.pipeline.size
        return len(self.talk.turns) * height * width * 3 * (1 + 4)

    @property
    def chain(self) -> str:
        """The plan's words, for people."""
        return "" if self.plan is None else readable(self.plan.chain)

    @property
    def problems(self) -> tuple[PlanProblem, ...]:
        """What is wrong with the plan."""
        return () if self.plan is None else plan_problems(self.plan)

    @property
    def pending(self) -> bool:
        """Whether there is a plan that the picture does not show."""
        return self.plan is not None and (self._shown is None or self.plan.chain != self._shown.chain)

    @property
    def before(self) -> Turn | None:
        """What the picture is compared with: the version it replaces, or the picture it goes on from."""
        turn = self.talk.current
        if turn is None:
            return None
        return self.talk.turns[self.redrawn[turn.number]] if turn.number in self.redrawn else turn.previous

    @contextmanager
    def working(self) -> Iterator[None]:
        """While it lasts, whatever else would change the session is refused."""
        if not self._working.acquire(timeout=PATIENCE):
            raise Refused("your last request is still being worked on: wait for it, or stop it")
        try:
            self.stop = Event()
            yield
        finally:
            self._working.release()

    def ask(self, prompt: object, settings: Settings, listener: ChainListener) -> None:
        """Have the next turn planned."""
        asked = checked_text(prompt, self.limits.prompt, "prompt")
        if not asked:
            raise Refused("say what to draw" if self.image is None else "say what to change")
        plan = self.talk.plan(asked, seed=settings.seed, temperature=settings.temperature, listener=listener)
        self._put(plan, self.talk.current, None)

    def draw(self, settings: Settings, callback: StepCallback) -> None:
        """Draw the plan on the canvas as a turn; what it is another version of stays in the history."""
        if self.plan is None:
            raise Refused("there is no plan to draw yet")
        self._check_plan(self.plan)
        if len(self.talk.turns) >= self.limits.turns:
            raise Refused(f"this conversation has {self.limits.turns} pictures: download what you need and start over")
        settings = settings.fitting(self.pipeline, editing=self.plan.source is not None)
        (image,) = self.pipeline.generate(
            self.plan,
            seed=settings.seed,
            num_inference_steps=settings.steps,
            semantic_scale=settings.semantic,
            spatial_scale=settings.spatial,
            reference_scale=settings.reference,
            keep=self._kept(self.plan) if settings.still else None,
            callback_on_step_end=callback,
        ).images
        replaced, self.talk.current = self.talk.current, self.basis
        turn = self.talk.append(self.plan, image, settings.seed)
        self.settings[turn.number] = settings
        if replaced is not None and replaced is not self.basis:
            self.redrawn[turn.number] = replaced.number
        self._put(self.plan, self.basis, self.plan)

    def type_chain(self, text: object) -> None:
        """Take over a chain that was typed."""
        typed = checked_text(text, self.limits.chain, "plan")
        if typed == self.chain.strip():
            return
        chain = from_readable(typed)
        if self.plan is not None:
            self._change(self.plan.rewritten(chain), typed=True)
            return
        plan = self.pipeline.given_plan(chain, "", self.image)
        self._check_plan(plan)
        self._put(plan, self.talk.current, None)
        self._typing = True

    def catch_up(self, text: object) -> None:
        """Take over what the page shows, unless it is what was shown before the last changes arrived there."""
        if isinstance(text, str) and text.strip() not in self._sent:
            self.type_chain(text)

    def act(self, action: Action) -> None:
        """Change the plan on the canvas."""
        if self.plan is None:
            raise Refused("there is no plan to change yet")
        try:
            changed = action(self.plan)
        except ValueError as error:
            raise Refused(one_line(error)) from error
        self._change(changed, typed=False)

    def repair(self) -> None:
        """Move boxes so that the plan has fewer problems."""
        plan = None if self.plan is None else repaired(self.plan)
        if plan is None or plan == self.plan:
            raise Refused("moving boxes does not mend this plan: edit its words instead")
        self._change(plan, typed=False)

    def undo(self) -> None:
        """Take back the last change of the plan, else the plan that was not drawn, else the last turn."""
        if self._changes:
            self._set(self._changes.pop())
        elif self.pending:
            self._show(self.talk.current)
        else:
            self._show(self.talk.undo())

    def go_to(self, number: int) -> None:
        """Go back to any turn."""
        try:
            self._show(self.talk.go_to(number))
        except ValueError as error:
            raise Refused(one_line(error)) from error

    def start_over(self) -> None:
        """Forget everything."""
        self._begin(Conversation(self.pipeline))

    def bring(self, image: Image.Image) -> None:
        """Begin with a picture that is to be edited."""
        self._begin(Conversation(self.pipeline, image))

    def load(self, saved: Saved) -> None:
        """Begin with a drawing that was saved, as if it had just been drawn."""
        talk = Conversation(self.pipeline, saved.source)
        plan = self.pipeline.given_plan(saved.chain, saved.prompt, saved.source)
        self._check_plan(plan)
        self._begin(talk)
        turn = talk.append(plan, saved.image, saved.settings.seed)
        self.settings[turn.number] = saved.settings
        self._show(turn)

    def saved(self) -> Saved:
        """The current drawing, to be written into a file.

        Raises:
            Refused: There is none.
        """
        turn = self.talk.current
        if turn is None or turn.plan is None:
            raise Refused("there is no drawing to save yet")
        source = None if turn.previous is None else turn.previous.image
        return Saved(
            turn.image, turn.plan.prompt, turn.plan.chain, self.settings[turn.number], source, turn.plan.earlier
        )

    def _begin(self, talk: Conversation) -> None:
        self.talk = talk
        self.settings: dict[int, Settings] = {}
        self.redrawn: dict[int, int] = {}
        self._show(talk.current)

    def _show(self, turn: Turn | None) -> None:
        plan = None if turn is None else turn.plan
        self._put(plan, None if turn is None or plan is None else turn.previous, plan)

    def _put(self, plan: Plan | None, basis: Turn | None, shown: Plan | None) -> None:
        """Put a plan on the canvas; `shown` is what the picture was drawn from."""
        self._shown = shown
        self.basis = basis
        self._changes: list[Plan] = []
        self._typing = False
        self._sent: set[str] = {""} if plan is None else set()
        self._set(plan)

    def _set(self, plan: Plan | None) -> None:
        self.plan = plan
        if plan is not None:
            self._sent.add(self.chain.strip())

    def _change(self, plan: Plan, typed: bool) -> None:
        self._check_plan(plan)
        if self.plan is not None and not (typed and self._typing):
            self._changes = [*self._changes[1 - CHANGES_KEPT :], self.plan]
        self._typing = typed
        self._set(plan)

    def _kept(self, plan: Plan) -> PreviousImages | None:
        """What stays of the pictures before: of the version it replaces, else of the picture that is edited."""
        turn = self.talk.current
        former = None if turn is None or turn is self.basis else turn.plan
        if turn is not None and former is not None and former.regions != plan.regions:
            return GoTPipelineOutput([turn.image], (former,), None)
        return self.basis.image if self.basis is not None and plan.regions else None

    def _check_plan(self, plan: Plan) -> None:
        if len(plan.regions) > self.limits.boxes:
            raise Refused(f"the plan has {len(plan.regions)} boxes; at most {self.limits.boxes} are drawn")


LONGEST_NAME = 100
"""Characters of a page's name."""


class Sessions:
    """Sessions by the names of the pages they belong to.

    Args:
        new: Makes a session.
        limits: How many are kept, and for how long.
        clock: Tells the seconds.
    """

    def __init__(self, new: Callable[[], Session], limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._new = new
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[float, Session]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, name: str | None) -> Session:
        """The session of a page, which may be new.

        Raises:
            Refused: The page has no name.
        """
        if not name or len(name) > LONGEST_NAME:
            raise Refused("this page has no name: load it again")
        with self._lock:
            session = self._kept[name][1] if name in self._kept else self._new()
            self._kept[name] = (self._clock(), session)
            self._kept.move_to_end(name)
            self._forget()
        return session

    def forget(self, name: str | None) -> None:
        """A page was closed."""
        with self._lock:
            _, session = self._kept.pop(name or "", (0.0, None))
        if session is not None:
            session.stop.set()

    def forget_all(self) -> None:
        """The server ends."""
        for name in list(self._kept):
            self.forget(name)

    def _forget(self) -> None:
        """The oldest go, down to the one that is being served, while there is too much."""
        while len(self._kept) > 1 and self._too_much():
            _, (_, session) = self._kept.popitem(last=False)
            session.stop.set()

    def _too_much(self) -> bool:
        used, _ = next(iter(self._kept.values()))
        idle = self._clock() - used > self._limits.idle_seconds
        kept = sum(session.kept_bytes for _, session in self._kept.values())
        return idle or len(self._kept) > self._limits.sessions or kept > self._limits.kept_bytes
