"""What is kept of the samples' chains, for studies of what a chain is worth."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from got_core.chain import parse
from got_core.chain_lexemes import spliced
from got_core.interfaces import Processor
from got_core.types import Batch, Sample

ChainForm = Literal["whole", "words", "none"]

_JOINT = re.compile(r"(?:,\s*and\b|\s+and\b|,)\s*$")


@dataclass(frozen=True)
class FormedChains:
    """A processor that gives another one the samples with their chains in a form; picklable.

    Args:
        processor: Makes the batches.
        form: See `in_form`.
    """

    processor: Processor
    form: ChainForm

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """A batch of the samples with formed chains."""
        return self.processor([replace(sample, chain=in_form(sample.chain, self.form)) for sample in samples])


def in_form(chain: str, form: ChainForm) -> str:
    """A chain as it is ("whole"), without its boxes and the colours behind them ("words"), or empty ("none")."""
    if form == "none":
        return ""
    return without_boxes(chain) if form == "words" else chain


def without_boxes(text: str) -> str:
    """A chain's words alone: each region becomes its phrase, one without words of its own goes with its joining word.

    What `got_core.chain` cannot read as a region stays as it is.
    """
    changes, low = [], 0
    for place in parse(text).places:
        phrase = text[slice(*place.phrase)]
        joint = None if phrase else _JOINT.search(text, low, place.start)
        changes.append((joint.start() if joint else place.start, place.end, phrase))
        low = place.end
    return spliced(text, changes)
