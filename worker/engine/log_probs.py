"""Log-probabilities of tokens from a language model's logits; knows no request."""

import numpy as np
import numpy.typing as npt

from worker.engine.request import FloatArray


def log_softmax(logits: FloatArray) -> FloatArray:
    """(row, vocabulary) float32 logits → log-probabilities of the same shape, in float32 like torch.

    Raises FloatingPointError if a row is not finite: a model that overflowed must not answer.
    """
    highest, log_sum = _highest_and_log_sum(logits)
    log_probs: FloatArray = logits - highest
    log_probs -= log_sum
    return log_probs


def log_normalisers(logits: FloatArray) -> npt.NDArray[np.float64]:
    """(row, vocabulary) float32 logits → (row,) float64: a logit minus its row's value is a log-probability.

    Raises FloatingPointError as log_softmax() does.
    """
    highest, log_sum = _highest_and_log_sum(logits)
    return highest[:, 0].astype(np.float64) + log_sum[:, 0]


def _highest_and_log_sum(logits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Each row's highest logit and logarithm of the sum of exp(logit - highest), (row, 1) each."""
    with np.errstate(invalid="ignore"):
        highest: FloatArray = logits.max(axis=-1, keepdims=True)
        shifted = logits - highest
        np.exp(shifted, out=shifted)
        log_sum: FloatArray = np.log(shifted.sum(axis=-1, keepdims=True))
    if not np.isfinite(log_sum).all():
        raise FloatingPointError("the language model returned logits that are not numbers")
    return highest, log_sum
