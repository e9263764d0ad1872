"""Chains as people read and edit them: `[a red circle](0,281),(375,656) (red)` for what is full of tokens.

Only the four tokens of our own form are exchanged, and only where the way back gives the very same chain.
"""

import re

from got_core.chain_lexemes import BOX_END, BOX_START, PHRASE_END, PHRASE_START

_CORNER = r"\(\s*-?[\d.]+\s*,\s*-?[\d.]+\s*\)"
_CORNERS = rf"{_CORNER}\s*,\s*{_CORNER}"
_WRITTEN = re.compile(
    rf"{re.escape(PHRASE_START)}([^<>\[\]]*){re.escape(PHRASE_END)}{re.escape(BOX_START)}({_CORNERS}){re.escape(BOX_END)}"
)
_READABLE = re.compile(rf"\[([^<>\[\]]*)\]({_CORNERS})")


def readable(chain: str) -> str:
    """The chain for people; unchanged where it could not be turned back."""
    text = _WRITTEN.sub(r"[\1]\2", chain)
    return text if from_readable(text) == chain else chain


def from_readable(text: str) -> str:
    """The chain that a text for people means; other text, and chains in any form, stay as they are."""
    return _READABLE.sub(rf"{PHRASE_START}\1{PHRASE_END}{BOX_START}\2{BOX_END}", text)
