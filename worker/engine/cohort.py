"""A batch of rows in the state of one infer request; its rows append, fork, drop and move together.

Knows the ports of the stateful language model; knows neither which sequences its rows are nor why they move.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import openvino as ov

from contract.model_folder import ATTENTION_MASK, BEAM_IDX, INPUTS_EMBEDS, LOGITS, POSITION_IDS
from worker.engine.request import FloatArray, IntArray

STATE_ROWS: Final = 0
STATE_POSITIONS: Final = 2
"""Axes of a state: (row, key-value head, position, head size)."""
DROP_COST: Final = 2
"""Number of decode steps that take as long as the copy of a row when the batch size changes."""
MOVE_COST: Final = 20
"""Bytes of weights that a step reads in the time of moving one byte of state."""


@dataclass(frozen=True)
class CacheSize:
    """What positions take in the state, and what moving them costs compared with a step."""

    position_bytes: int
    """of one row's position, as the plugin keeps keys and values"""
    moved_bytes: int
    """of one row's position, in the float32 that a state is read and written in"""
    weight_bytes: int
    """read by a step, whatever its number of rows"""


class Row:
    """One row: its place in the cohort's state, and which positions there are its own."""

    def __init__(
        self, cohort: "Cohort", max_positions: int, index: int, visible: IntArray, length: int
    ) -> None:
        self.cohort = cohort
        self.max_positions = max_positions
        self.index = index
        """place in the batch of the cohort's last step"""
        self.visible = visible
        """(position in the state,) int64, 1 where the position is its own"""
        self.length = length

    @property
    def remaining(self) -> int:
        return self.max_positions - self.length

    def fork(self, max_positions: int, positions: int | None) -> "Row":
        """A row that continues the first `positions` of this one; None stands for all."""
        length = self.length if positions is None else positions
        assert 0 < length <= self.length, "a fork begins with positions that are there"
        visible = self.visible.copy()
        if length < self.length:
            visible[np.flatnonzero(visible)[length:]] = 0
        return self.cohort.join(Row(self.cohort, max_positions, self.index, visible, length))


class Cohort:
    """Rows that have an infer request to themselves. It begins with one row and no positions."""

    def __init__(self, request: ov.InferRequest) -> None:
        self.request = request
        self.rows: list[Row] = []
        """living rows, in no order"""
        self.batch = 0
        """number of rows of the last step, dead ones included"""
        self.past = 0
        """number of positions in the state, the same for every row"""

    def join(self, row: Row) -> Row:
        self.rows.append(row)
        return row

    def begin(self, max_positions: int) -> Row:
        """The first row."""
        assert not self.rows, "a cohort begins once"
        return self.join(Row(self, max_positions, 0, np.zeros(0, np.int64), 0))

    @property
    def most_positions(self) -> int:
        """Number of positions that the state may grow to before its last row ends."""
        return self.past + max(row.remaining for row in self.rows)

    def append(self, pieces: Mapping[Row, FloatArray], numbers: Mapping[Row, IntArray] = {}) -> FloatArray:
        """Append to each named row its piece (position, hidden); the other rows stay as they are.

        `numbers` are a piece's position ids (position,) where they do not count on from the row's length.
        Returns logits (piece, vocabulary) of each piece's last position. Shorter pieces are padded on the
        left. Rows that are not named get nothing but padding, which stays in the state and is hidden from
        then on.
        """
        batch = self._next_batch()
        positions = max(len(piece) for piece in pieces.values())
        hidden = next(iter(pieces.values())).shape[1]
        total = self.past + positions
        inputs_embeds = np.zeros((len(batch), positions, hidden), np.float32)
        attention_mask = np.zeros((len(batch), total), np.int64)
        position_ids = np.zeros((len(batch), positions), np.int64)
        for place, row in enumerate(batch):
            attention_mask[place, : self.past] = row.visible
            piece = pieces.get(row)
            # Dead rows repeat the last living one; nothing of them is read.
            if piece is None or place >= len(self.rows):
                continue
            start = positions - len(piece)
            inputs_embeds[place, start:] = piece
            attention_mask[place, self.past + start :] = 1
            counted = np.arange(row.length, row.length + len(piece))
            position_ids[place, start:] = numbers.get(row, counted)
        inputs = {
            INPUTS_EMBEDS: inputs_embeds,
            ATTENTION_MASK: attention_mask,
            POSITION_IDS: position_ids,
            BEAM_IDX: np.array([row.index for row in batch], np.int32),
        }
        self.request.infer(inputs, share_inputs=True)
        self.batch, self.past = len(batch), total
        for place, row in enumerate(batch[: len(self.rows)]):
            row.index = place
            row.visible = attention_mask[place]
            row.length += len(pieces.get(row, ()))
        # Copied, as the next infer overwrites the tensor.
        logits = self.request.get_tensor(LOGITS).data
        return np.array(logits[[row.index for row in pieces], -1], dtype=np.float32)

    def _next_batch(self) -> list[Row]:
        """The living rows in their order, and the last again for dead rows that are not worth dropping."""
        living = sorted(self.rows, key=lambda row: row.index)
        dead = self.batch - len(living)
        steps = max(row.remaining for row in living)
        if dead > 0 and dead * steps <= DROP_COST * len(living):
            return living + living[-1:] * dead
        return living


def pays_to_merge(cohorts: Sequence[Cohort], size: CacheSize) -> bool:
    """Whether common steps save more time than the move costs.

    Each cohort but one saves one read of the weights per step. Answers are assumed to end half way to their
    bound.
    """
    rows = [row for cohort in cohorts for row in cohort.rows]
    steps = sum(row.remaining for row in rows) / len(rows) / 2
    moved = len(rows) * max(cohort.past for cohort in cohorts) * size.moved_bytes
    return (len(cohorts) - 1) * steps * size.weight_bytes > MOVE_COST * moved


def merge(cohorts: Sequence[Cohort], request: ov.InferRequest) -> Cohort:
    """Move all rows into a new cohort on `request`; shorter rows are padded on the left."""
    merged = Cohort(request)
    merged.past = max(cohort.past for cohort in cohorts)
    moving = [(cohort, sorted(cohort.rows, key=lambda row: row.index)) for cohort in cohorts]
    sources = [{state.name: state for state in cohort.request.query_state()} for cohort in cohorts]
    buffer: FloatArray | None = None
    for state in request.query_state():
        place = 0
        for (cohort, rows), source in zip(moving, sources, strict=True):
            values = source[state.name].state.data
            if buffer is None:
                shape = list(values.shape)
                shape[STATE_ROWS] = sum(len(rows) for _, rows in moving)
                shape[STATE_POSITIONS] = merged.past
                buffer = np.zeros(shape, np.float32)
            start = merged.past - cohort.past
            for row in rows:
                buffer[place, :, start:] = values[row.index]
                place += 1
        state.state = ov.Tensor(buffer, shared_memory=True)
    for cohort, rows in moving:
        hidden = np.zeros(merged.past - cohort.past, np.int64)
        for row in rows:
            row.cohort, row.index = merged, len(merged.rows)
            row.visible = np.concatenate([hidden, row.visible])
            merged.join(row)
        cohort.rows.clear()
    merged.batch = len(merged.rows)
    return merged


def state_shapes(model: ov.Model) -> list[tuple[int, int]]:
    """(key-value heads, head size) of each state.

    Raises ValueError for a state without the axes (row, head, position, head size).
    """
    shapes = []
    for node in model.get_ops():
        if node.get_type_name() != "ReadValue":
            continue
        shape = node.get_output_partial_shape(0)
        if len(shape) != 4 or [dim.is_dynamic for dim in shape] != [True, False, True, False]:
            raise ValueError(f"The language model's state {node.get_friendly_name()} has shape {shape}.")
        shapes.append((shape[1].get_length(), shape[3].get_length()))
    return shapes
