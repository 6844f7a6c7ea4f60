"""Reads which jobs of a run are done, from the bitmap that workers write in the store."""

from collections.abc import Iterable, Sequence
from typing import Final

import redis

from contract.store import done_key

PIECE_BITS: Final = 512
"""Number of done bits that are fetched at once."""


class DoneBits:
    """The bitmap of one run."""

    def __init__(self, connection: redis.Redis, run: str) -> None:
        self._redis = connection
        self._key = done_key(run)

    def of(self, indices: Sequence[int]) -> list[int]:
        """The jobs that are done. Fetches pieces of the bitmap, as the indices are close to each other."""
        pieces = list({index // PIECE_BITS for index in indices})
        pipeline = self._redis.pipeline(transaction=False)
        for piece in pieces:
            first_byte = piece * PIECE_BITS // 8
            pipeline.getrange(self._key, first_byte, first_byte + PIECE_BITS // 8 - 1)
        bits = {
            piece: int.from_bytes(content.ljust(PIECE_BITS // 8, b"\0"))
            for piece, content in zip(pieces, pipeline.execute(), strict=True)
        }
        return [
            index
            for index in indices
            if bits[index // PIECE_BITS] >> (PIECE_BITS - 1 - index % PIECE_BITS) & 1
        ]

    def clear(self, indices: Iterable[int]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for index in indices:
            pipeline.setbit(self._key, index, 0)
        pipeline.execute()
