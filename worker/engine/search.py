"""Chooses the search for a request: it picks the tokens that continue the request's rows at each step.

Knows what a request asks for; does not know where the logits come from.
"""

from typing import Protocol

from worker.engine.beams import BeamSearch
from worker.engine.choices import ChoiceSearch
from worker.engine.request import FloatArray, Generations, Request
from worker.engine.sampling import RowSearch
from worker.engine.steps import NextRows

__all__ = ["NextRows", "Search", "search_for"]


class Search(Protocol):
    """One request's search, which takes logits step by step until it returns its Generations."""

    def advance(self, logits: FloatArray) -> NextRows | Generations:
        """Take the logits (row, vocabulary) of the rows asked for last (one row after the prefill).

        The logits are not changed. The number of rows may change from step to step. Raises Refusal if the
        request's options leave nothing to answer, FloatingPointError for logits that are not finite.
        """
        ...


def search_for(request: Request) -> Search:
    """The search for the request's parameters or choices."""
    if request.choices:
        return ChoiceSearch(request)
    return BeamSearch(request) if request.parameters.num_beams > 1 else RowSearch(request)
