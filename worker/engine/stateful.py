"""The runner on the stateful OpenVINO language model: its state is the cache, its `beam_idx` maps the rows.

Knows which sequence is which row; does not know requests, beams or tokens.

A prompt begins a cohort of its own, with an infer request of its own. Forks join the cohort of their source.
Cohorts that only append tokens are merged when that pays. docs/engine.md has the measurements behind it.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Final, Self

import numpy as np
import openvino as ov

from contract.model_folder import ATTENTION_MASK, BEAM_IDX, INPUTS_EMBEDS, LOGITS, POSITION_IDS
from worker.engine.cohort import CacheSize, Cohort, Row, merge, pays_to_merge, state_shapes
from worker.engine.graph import last_position_only
from worker.engine.openvino_error import reason
from worker.engine.request import FloatArray
from worker.engine.runner import SequenceId, SequenceInput

GROWTH: Final = 2
"""Factor by which the plugin enlarges a state's memory when it is full."""
PADDING: Final = 1.25
"""Most that padding in a cohort may lengthen its rows, as a factor."""
SCALE_BYTES: Final = 8
"""Bytes of the scale and zero point of each head's key or value at a position, in a cache of 8 bits."""


class StatefulRunner:
    """A runner with cohorts; worker.engine.runner.Runner describes the calls.

    Each cohort has a new infer request, which costs nothing. `merges` says whether cohorts may be merged: not
    every device lets its state be read.
    """

    def __init__(self, compiled: ov.CompiledModel, size: CacheSize, *, merges: bool) -> None:
        self._compiled = compiled
        self._size = size
        self._merges = merges
        self._rows: dict[SequenceId, Row] = {}
        self._ids = count()

    @classmethod
    def load(cls, language_xml: Path, device: str, properties: Mapping[str, str]) -> Self:
        """Compile the language model for `device` with OpenVINO `properties`.

        Raises ValueError with one sentence if the file is not a stateful language model with the ports of
        contract.model_folder, or if OpenVINO refuses the device or a property.
        """
        core = ov.Core()
        try:
            model = core.read_model(language_xml)
        except RuntimeError as error:
            raise ValueError(f"{language_xml.name} cannot be read: {reason(error)}") from error
        _check_ports(model, language_xml)
        last_position_only(model)
        try:
            compiled = core.compile_model(model, device, dict(properties))
        except RuntimeError as error:
            raise ValueError(
                f"{language_xml.name} cannot be compiled for device {device} with properties "
                f"{dict(properties)}: {reason(error)}"
            ) from error
        on_cpu = device.split(".")[0] == "CPU"
        return cls(compiled, _cache_size(model, compiled, on_cpu=on_cpu), merges=on_cpu)

    @property
    def shares_prefixes(self) -> bool:
        """False: a fork copies its rows."""
        return False

    @property
    def mixes_steps(self) -> bool:
        """False: each cohort is a call of its own."""
        return False

    def bytes_for(self, positions: int) -> int:
        return round(GROWTH * PADDING * positions * self._size.position_bytes)

    def begin(self, max_positions: int) -> SequenceId:
        return self._named(Cohort(self._compiled.create_infer_request()).begin(max_positions))

    def can_fork(self, sequence: SequenceId, max_positions: int, positions: int) -> bool:
        cohort = self._rows[sequence].cohort
        most_positions = max(cohort.most_positions, cohort.past + max_positions - positions)
        rooms = [row.max_positions for row in cohort.rows] + [max_positions]
        return len(rooms) * most_positions <= PADDING * sum(rooms)

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:
        return self._named(self._rows[sequence].fork(max_positions, positions))

    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        rows = [self._rows[one.sequence] for one in inputs]
        if self._merges and all(len(one.inputs_embeds) == 1 for one in inputs):
            self._merge(rows)
        places: dict[Cohort, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(row.cohort, []).append(place)
        logits: list[FloatArray] = []
        for cohort, own in places.items():
            numbers = {
                rows[place]: positions for place in own if (positions := inputs[place].positions) is not None
            }
            logits.append(cohort.append({rows[place]: inputs[place].inputs_embeds for place in own}, numbers))
        if len(logits) == 1:
            return logits[0]
        order = np.argsort(np.concatenate(list(places.values())))
        gathered: FloatArray = np.concatenate(logits)[order]
        return gathered

    def release(self, sequence: SequenceId) -> None:
        row = self._rows.pop(sequence)
        row.cohort.rows.remove(row)

    def _named(self, row: Row) -> SequenceId:
        sequence = SequenceId(next(self._ids))
        self._rows[sequence] = row
        return sequence

    def _merge(self, rows: Sequence[Row]) -> None:
        """Merge cohorts whose rows all take part in this step, the longest with those of similar length."""
        taking_part = set(rows)
        cohorts = [
            c for c in dict.fromkeys(row.cohort for row in rows) if c.past and taking_part.issuperset(c.rows)
        ]
        cohorts.sort(key=lambda cohort: cohort.past, reverse=True)
        while len(cohorts) > 1:
            near = cohorts[:1]
            near += [c for c in cohorts[1:] if _fit([*near, c])]
            largest = max(near, key=lambda cohort: len(cohort.rows))
            for together in (near, [cohort for cohort in near if cohort is not largest]):
                if len(together) > 1 and _fit(together) and pays_to_merge(together, self._size):
                    merge(together, self._compiled.create_infer_request())
                    break
            cohorts = [cohort for cohort in cohorts if cohort not in near]


def _fit(cohorts: Sequence[Cohort]) -> bool:
    """Whether the rows together, all as long as the longest, take no more than was reserved for each."""
    rows = [row for cohort in cohorts for row in cohort.rows]
    past = max(cohort.past for cohort in cohorts)
    most_positions = past + max(row.remaining for row in rows)
    return len(rows) * most_positions <= PADDING * sum(row.max_positions for row in rows)


def _cache_size(model: ov.Model, compiled: ov.CompiledModel, *, on_cpu: bool) -> CacheSize:
    shapes = state_shapes(model)
    precision = compiled.get_property("KV_CACHE_PRECISION") if on_cpu else ov.Type.f16
    kept = sum(
        heads * (head_size * precision.size + (SCALE_BYTES if precision.size == 1 else 0))
        for heads, head_size in shapes
    )
    moved = sum(heads * head_size for heads, head_size in shapes) * np.dtype(np.float32).itemsize
    weights = sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")
    return CacheSize(position_bytes=kept, moved_bytes=moved, weight_bytes=weights)


def _check_ports(model: ov.Model, language_xml: Path) -> None:
    """Raise ValueError unless the model is stateful and has the ports that a cohort uses."""
    inputs = {port.any_name for port in model.inputs}
    expected = {INPUTS_EMBEDS, ATTENTION_MASK, POSITION_IDS, BEAM_IDX}
    if inputs != expected:
        raise ValueError(
            f"{language_xml.name} has inputs {sorted(inputs)}; "
            f"a stateful language model has {sorted(expected)}."
        )
    if not any(LOGITS in port.get_names() for port in model.outputs):
        raise ValueError(f"{language_xml.name} has no output named {LOGITS}.")
    if not model.get_sinks():
        raise ValueError(f"{language_xml.name} keeps no state: its cache must be exported as stateful.")
