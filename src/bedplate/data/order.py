"""Shuffling without a list: a keyed permutation of any number of indices in constant memory."""

import hashlib
from typing import overload

import numpy as np
from jaxtyping import Int64

ROUNDS = 8


class Permutation:
    """A pseudo-random order of range(size): `permutation[place]` is the item at that place, for integers or arrays.

    A Feistel network permutes the numbers of 2h bits; numbers that fall outside are sent through again until they fall
    inside ("cycle walking", Black and Rogaway 2002), fewer than four times on average.
    """

    def __init__(self, size: int, *, seed: int, epoch: int = 0) -> None:
        self.size = size
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        digest = hashlib.shake_256(f"{seed} {epoch}".encode()).digest(8 * ROUNDS)
        self._keys = np.frombuffer(digest, dtype="<u8")

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]: ...
    def __getitem__(self, place: int | Int64[np.ndarray, " places"]) -> int | Int64[np.ndarray, " places"]:
        places = np.atleast_1d(np.asarray(place, dtype=np.int64))
        if places.size and (places.min() < 0 or places.max() >= self.size):
            raise IndexError(f"place outside range({self.size})")
        items = self._network(places.astype(np.uint64))
        while (outside := items >= self.size).any():
            items[outside] = self._network(items[outside])
        return int(items[0]) if np.ndim(place) == 0 else items.astype(np.int64)

    def _network(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> self._half_bits, numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(numbers: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele et al. 2014): every input bit reaches every output bit."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
