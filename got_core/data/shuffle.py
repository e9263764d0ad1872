"""Shuffled orders that need no memory and no state."""

from hashlib import blake2b

ROUNDS = 4
"""Rounds of the Feistel network; three already give a pseudo-random permutation (Luby and Rackoff, 1988)."""


def permuted(index: int, length: int, *key: int) -> int:
    """Where `index` comes in a shuffled order of 0 .. length - 1, one order for each key.

    A Feistel network permutes the smallest even number of bits that holds `length`; what falls outside is sent
    through again until it falls inside, which keeps it a permutation.
    """
    half = ((length - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(ROUNDS):
            left, right = right, left ^ (_hash(right, turn, *key) & mask)
        index = left << half | right
        if index < length:
            return index


def _hash(*values: int) -> int:
    return int.from_bytes(blake2b(repr(values).encode(), digest_size=8).digest())
