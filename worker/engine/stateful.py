"""The runner on the stateful OpenVINO language model: its state is the cache, its `beam_idx` maps the rows.

Knows ports and shapes of the exported model; does not know requests, beams or tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import openvino as ov

from contract.model_folder import ATTENTION_MASK, BEAM_IDX, INPUTS_EMBEDS, LOGITS, POSITION_IDS
from worker.engine.request import FloatArray, IntArray


class StatefulRunner:
    """A compiled language model with one infer request: see worker.engine.runner.Runner for the calls.

    All rows are equally long, so no position is ever masked. The infer request is made once: a new one costs
    more than a reset state.
    """

    def __init__(self, request: ov.InferRequest) -> None:
        self._request = request
        self._rows = 0
        self._past_tokens = 0

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
            raise ValueError(f"{language_xml.name} cannot be read: {_reason(error)}") from error
        _check_ports(model, language_xml)
        try:
            compiled = core.compile_model(model, device, dict(properties))
        except RuntimeError as error:
            raise ValueError(
                f"{language_xml.name} cannot be compiled for device {device} with properties "
                f"{dict(properties)}: {_reason(error)}"
            ) from error
        return cls(compiled.create_infer_request())

    def prefill(self, inputs_embeds: FloatArray) -> FloatArray:
        """(row, position, hidden) → logits (row, vocabulary) of the last position; the rows are new ones."""
        assert self._rows == 0, "rows of an earlier prefill were not released"
        return self._infer(inputs_embeds, np.arange(len(inputs_embeds)))

    def decode(self, inputs_embeds: FloatArray, beam_idx: IntArray) -> FloatArray:
        """(row, 1, hidden), (row,) → logits (row, vocabulary); row r continues row beam_idx[r]."""
        assert inputs_embeds.shape[1] == 1, "one token a row and step"
        assert len(beam_idx) == len(inputs_embeds), "one beam_idx a row"
        assert ((beam_idx >= 0) & (beam_idx < self._rows)).all(), "beam_idx points into the last batch"
        return self._infer(inputs_embeds, beam_idx)

    def release(self) -> None:
        """Forget all rows. Keys and values go together: a state reset in part is a wrong answer."""
        self._request.reset_state()
        self._rows = self._past_tokens = 0

    def _infer(self, inputs_embeds: FloatArray, beam_idx: IntArray) -> FloatArray:
        rows, positions = inputs_embeds.shape[:2]
        total_tokens = self._past_tokens + positions
        position_ids = np.arange(self._past_tokens, total_tokens, dtype=np.int64)
        inputs: dict[str, Any] = {
            INPUTS_EMBEDS: np.ascontiguousarray(inputs_embeds),
            ATTENTION_MASK: np.ones((rows, total_tokens), np.int64),
            POSITION_IDS: np.broadcast_to(position_ids, (rows, positions)).copy(),
            BEAM_IDX: beam_idx.astype(np.int32),
        }
        self._request.infer(inputs, share_inputs=True)
        self._rows, self._past_tokens = rows, total_tokens
        # Copied, as the next infer overwrites the tensor. Foreign exports return every position's logits.
        logits = self._request.get_tensor(LOGITS).data[:, -1, :]
        return np.array(logits, dtype=np.float32, copy=True)


def _reason(error: RuntimeError) -> str:
    """The last line of an OpenVINO error: the lines before it tell where in its source it was raised."""
    return str(error).strip().splitlines()[-1].strip()


def _check_ports(model: ov.Model, language_xml: Path) -> None:
    """Raise ValueError unless the model is stateful and has the ports that _infer uses."""
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
