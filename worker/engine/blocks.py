"""Tracks the cache blocks that hold each sequence's positions; knows no tensor and copies nothing.

Forks share blocks, which are counted. A block that is written to belongs to one sequence: a partial block
that others hold too is copied first. Blocks are taken only as sequences grow, so a fork itself takes none.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BlockArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Copy:
    """Block `source` must be copied onto block `target` before anything is written."""

    source: int
    target: int


class BlockTable:
    """The blocks of one sequence in the order of its positions; only its BlockPool changes it."""

    def __init__(self, max_blocks: int) -> None:
        self._places: BlockArray = np.empty(max_blocks, np.int32)
        self._used = 0
        self.positions = 0

    @property
    def blocks(self) -> BlockArray:
        """(block,) int32, a view: position p is in the block at p // block_positions."""
        return self._places[: self._used]

    @property
    def max_blocks(self) -> int:
        return len(self._places)

    def append(self, blocks: BlockArray | list[int]) -> None:
        self._places[self._used : self._used + len(blocks)] = blocks
        self._used += len(blocks)


class BlockPool:
    """Hands out `blocks` blocks of `block_positions` positions each."""

    def __init__(self, blocks: int, block_positions: int) -> None:
        assert blocks > 0
        assert block_positions > 0
        self.block_positions = block_positions
        # Taken from the end: the block freed last goes first, and memory never used stays untouched.
        self._free = list(range(blocks - 1, -1, -1))
        self._holders: BlockArray = np.zeros(blocks, np.int32)

    @property
    def free(self) -> int:
        """Number of blocks that no sequence holds."""
        return len(self._free)

    def blocks_for(self, positions: int) -> int:
        return -(-positions // self.block_positions)

    def begin(self, max_positions: int) -> BlockTable:
        """An empty table that may grow to `max_positions`."""
        return BlockTable(self.blocks_for(max_positions))

    def fork(self, table: BlockTable, max_positions: int, positions: int) -> BlockTable:
        """A table with the first `positions` of `table`, which shares their blocks."""
        assert 0 <= positions <= min(table.positions, max_positions), "a fork begins within its source"
        fork = BlockTable(self.blocks_for(max_positions))
        fork.append(table.blocks[: self.blocks_for(positions)])
        fork.positions = positions
        self._holders[fork.blocks] += 1
        return fork

    def extend(self, table: BlockTable, positions: int) -> Copy | None:
        """Make room for `positions` more, all to be written now → the copy to make before that, if any."""
        needed = self.blocks_for(table.positions + positions)
        assert needed <= table.max_blocks, "a sequence keeps to its max_positions"
        copy = None
        if table.positions % self.block_positions:
            copy = self._own_last_block(table)
        table.append([self._take() for _ in range(needed - len(table.blocks))])
        table.positions += positions
        return copy

    def release(self, table: BlockTable) -> None:
        """Free the blocks that no other table holds; the table is of no use afterwards."""
        blocks = table.blocks[::-1]
        self._holders[blocks] -= 1
        self._free += blocks[self._holders[blocks] == 0].tolist()

    def _own_last_block(self, table: BlockTable) -> Copy | None:
        source = int(table.blocks[-1])
        if self._holders[source] == 1:
            return None
        self._holders[source] -= 1
        table.blocks[-1] = self._take()
        return Copy(source, int(table.blocks[-1]))

    def _take(self) -> int:
        assert self._free, "callers keep within the number of blocks"
        block = self._free.pop()
        self._holders[block] = 1
        return block
