"""Probes a reasoner under a Trainer, each rank a share of the probes."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from got_core.errors import UserError
from got_core.evaluation.edit_cases import load_picture, picture_bytes
from got_core.evaluation.item_scoring import Items, ItemScoring, Keeping
from got_core.evaluation.probes import Probe
from got_core.interfaces import Processor, Reasoner
from got_core.types import Batch, Sample

RIGHT, SPENT, TOKENS = "right", "nats", "tokens"
"""Figures: whether a question is answered rightly; the negative log-likelihood of a text or of the right answer; its
number of tokens."""

NO_IMAGE = (1, 1)
"""(height, width) of what stands in the place of an image that is not there; nobody looks at it."""

Loaded = tuple[int, Float[Tensor, "3 H W"] | None, str]
"""A probe's place, its image if there is one, and why it cannot be read."""


@runtime_checkable
class Answering(Protocol):
    """What a reasoner must be able to do, beside `Reasoner`, to be probed."""

    @property
    def question_processor(self) -> Processor:
        """Makes batches of plain questions, with an image or without, and answers in the place of chains."""
        ...

    def likelihood(self, batch: Batch) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
        """The log-likelihood in nats of each chain, without what ends it, and its number of tokens."""
        ...


class ProbeImages(Items):
    """The images of probes, those that cannot be read with the reason."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.probes = probes

    def __len__(self) -> int:
        return len(self.probes)

    def __getitem__(self, place: int) -> Loaded:
        image = self.probes[place].image
        try:
            return place, image if image is None or isinstance(image, Tensor) else load_picture(image), ""
        except (ValueError, OSError) as error:
            return place, None, str(error)

    def content(self, place: int) -> tuple[bytes, Any]:
        """The image's bytes, and the words."""
        probe = self.probes[place]
        asked = [probe.prompt, probe.candidates, probe.right, probe.drawing]
        if probe.image is None or isinstance(probe.image, Tensor):
            return b"" if probe.image is None else probe.image.numpy().tobytes(), asked
        return picture_bytes(probe.image), asked


class UnderstandingScoring(ItemScoring):
    """`trainer.test` measures the likelihood of every text, and has every question answered.

    The answer is the candidate of the highest likelihood for its number of tokens (their mean), so that long answers
    are not at a disadvantage and models that write no sentences can be asked too.

    Args:
        reasoner: Who is probed.
        probes: With what.
        num_workers: Processes that read images.
        keeping: Where figures are kept.

    Raises:
        UserError: The reasoner cannot say how likely a text is.
    """

    def __init__(
        self, reasoner: Reasoner, probes: Sequence[Probe], num_workers: int = 0, keeping: Keeping | None = None
    ) -> None:
        super().__init__(ProbeImages(probes), (RIGHT, SPENT, TOKENS), 1, num_workers, keeping)
        if not isinstance(reasoner, Answering):
            raise UserError(f"{type(reasoner).__name__} cannot be probed: it has no `likelihood`, `question_processor`")
        self.reasoner = reasoner.eval()
        self.probes = probes
        self.processors: dict[bool, Processor] = {False: reasoner.question_processor, True: reasoner.processor}

    @torch.no_grad()
    def score(self, batch: list[Loaded]) -> None:
        """Probe with each, all its candidates at once."""
        for place, image, problem in batch:
            probe = self.probes[place]
            if problem:
                self.note(place, {})
                self.remark(place, problem)
                continue
            size = NO_IMAGE if image is None else (image.shape[-2], image.shape[-1])
            samples = [Sample(probe.prompt, candidate, size, source=image) for candidate in probe.candidates]
            asked = self.processors[probe.drawing](samples).to(self.device)
            likelihood, tokens = self.reasoner.likelihood(asked)
            if not likelihood.isfinite().all():
                self.note(place, {})
                self.remark(place, f"the reasoner gives it no likelihood ({likelihood.tolist()})")
                continue
            figures = {SPENT: -float(likelihood[probe.right]), TOKENS: float(tokens[probe.right])}
            if len(samples) > 1:
                chosen = int((likelihood / tokens).argmax())
                figures[RIGHT] = float(chosen == probe.right)
            self.note(place, figures)
