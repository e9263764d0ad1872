"""The limits of prompts and chains, wherever they come from: a call, a command line, a record or a visitor."""

from got_core.chain.parser import parse

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
