"""Each sequence reads back what was written to it, whatever others fork, write or release; no block leaks."""

import random

import numpy as np
import pytest

from worker.engine.blocks import BlockPool, BlockTable

BLOCK = 4


class Memory:
    """A pool, what its blocks hold, and what each sequence should hold: numbers, each written once."""

    def __init__(self, blocks: int) -> None:
        self.pool = BlockPool(blocks, BLOCK)
        self.blocks = blocks
        self.held = np.full((blocks, BLOCK), -1)
        self.contents: dict[BlockTable, list[int]] = {}
        self.copies = 0
        self._written = 0

    def begin(self, max_positions: int) -> BlockTable:
        table = self.pool.begin(max_positions)
        self.contents[table] = []
        return table

    def fork(self, table: BlockTable, max_positions: int, positions: int) -> BlockTable:
        free = self.pool.free
        fork = self.pool.fork(table, max_positions, positions)
        assert self.pool.free == free, "a fork by itself takes no block"
        self.contents[fork] = self.contents[table][:positions]
        return fork

    def extend(self, table: BlockTable, positions: int) -> None:
        """Writes as a runner does: the copy, then the new positions, then rubbish to the block's end."""
        if copy := self.pool.extend(table, positions):
            self.held[copy.target] = self.held[copy.source]
            self.copies += 1
        for _ in range(positions):
            position = len(self.contents[table])
            self._written += 1
            self.held[table.blocks[position // BLOCK], position % BLOCK :] = -1
            self.held[table.blocks[position // BLOCK], position % BLOCK] = self._written
            self.contents[table].append(self._written)

    def release(self, table: BlockTable) -> None:
        self.pool.release(table)
        del self.contents[table]

    def check(self) -> None:
        for table, content in self.contents.items():
            assert table.positions == len(content)
            assert self.held[table.blocks].reshape(-1)[: len(content)].tolist() == content
        in_use = {block for table in self.contents for block in table.blocks.tolist()}
        assert self.pool.free == self.blocks - len(in_use)


def test_forks_share_full_blocks_and_copy_the_partial_one() -> None:
    memory = Memory(20)
    source = memory.begin(11)
    memory.extend(source, 10)  # two blocks and a half
    forks = [memory.fork(source, 20, 10) for _ in range(3)]
    for fork in forks:
        memory.extend(fork, 1)
        memory.check()
    assert memory.copies == 3
    assert memory.pool.free == 20 - 3 - 3
    memory.extend(source, 1)
    memory.check()
    assert memory.copies == 3, "the last one to write keeps the block"


def test_a_fork_that_outlives_its_source_writes_in_place() -> None:
    memory = Memory(5)
    source = memory.begin(20)
    memory.extend(source, 18)
    fork = memory.fork(source, 20, 18)
    memory.release(source)
    memory.extend(fork, 2)  # every block of the pool is in use
    memory.check()
    assert memory.copies == 0
    memory.release(fork)
    assert memory.pool.free == 5


@pytest.mark.parametrize(("positions", "copies"), [(3, 1), (4, 0), (5, 1), (8, 0), (0, 0)])
def test_a_truncated_fork_copies_only_a_block_it_shares_in_part(positions: int, copies: int) -> None:
    memory = Memory(20)
    source = memory.begin(8)
    memory.extend(source, 8)
    fork = memory.fork(source, 20, positions)
    memory.extend(fork, 6)
    memory.check()
    assert memory.copies == copies


def test_blocks_given_back_are_taken_first() -> None:
    pool = BlockPool(100, BLOCK)
    table = pool.begin(20)
    pool.extend(table, 20)
    used = set(table.blocks.tolist())
    pool.release(table)
    again = pool.begin(20)
    pool.extend(again, 20)
    assert set(again.blocks.tolist()) == used


def test_what_breaks_the_callers_word_is_caught() -> None:
    pool = BlockPool(3, BLOCK)
    table = pool.begin(5)
    with pytest.raises(AssertionError, match="max_positions"):
        pool.extend(table, 9)
    pool.extend(table, 5)
    with pytest.raises(AssertionError, match="within its source"):
        pool.fork(table, 20, 6)
    with pytest.raises(AssertionError, match="within its source"):
        pool.fork(table, 4, 5)
    pool.extend(pool.begin(4), 4)
    with pytest.raises(AssertionError, match="keep within"):
        pool.extend(pool.begin(1), 1)


@pytest.mark.parametrize("seed", range(8))
def test_random_forks_writes_and_releases(seed: int) -> None:
    """Uses no more blocks than the scheduler reserves: a prefix once, and for each row what follows it."""
    choose = random.Random(seed)
    memory = Memory(400)

    def charge(positions: int) -> int:
        return memory.pool.blocks_for(positions) + 1

    families: list[tuple[int, int, list[BlockTable]]] = []  # prefix, max_positions, rows
    for _ in range(600):
        if len(families) < 4:
            prefix = choose.randint(1, 30)
            max_positions = prefix + choose.randint(1, 25)
            first = memory.begin(max_positions)
            memory.extend(first, prefix)
            families.append((prefix, max_positions, [first]))
        prefix, max_positions, rows = family = choose.choice(families)
        match choose.choice(["fork", "cut", "write", "write", "release"]):
            case "fork":
                source = choose.choice(rows)
                rows.append(memory.fork(source, max_positions, source.positions))
            case "cut":
                source = choose.choice(rows)
                rows.append(memory.fork(source, max_positions, choose.randint(prefix, source.positions)))
            case "write":
                table = choose.choice(rows)
                if room := max_positions - table.positions:
                    memory.extend(table, choose.randint(1, min(6, room)))
            case "release":
                memory.release(rows.pop(choose.randrange(len(rows))))
                if not rows:
                    families.remove(family)
        memory.check()
        charged = sum(charge(p) + len(r) * charge(m - p) for p, m, r in families)
        assert 400 - memory.pool.free <= charged
        if charged > 300:
            for _, _, rows in families:
                for table in rows:
                    memory.release(table)
            families.clear()
    for table in list(memory.contents):
        memory.release(table)
    assert memory.pool.free == 400
    assert memory.copies > 20
