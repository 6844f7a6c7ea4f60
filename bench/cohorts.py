"""The measurement `cohorts`: calls of the stateful runner on cohorts of rows; knows no requests.

All figures are for one prompt length, the language model only, and OpenVINO's default properties.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import openvino as ov
import typer

from bench.folders import Folders, OwnFormat, make_own
from bench.options import OUT, ModelSize, Out, progress
from contract.model_folder import LANGUAGE_XML
from worker.engine.cohort import Cohort, Row, merge
from worker.engine.graph import last_position_only
from worker.engine.request import FloatArray

PROMPT_TOKENS: Final = 2351
SUFFIX_TOKENS: Final = 24
MANY_ROWS: Final = 8
MOST: Final = 10**6
"""Positions of a row at most; no row here reaches them."""
TRIALS: Final = 3
PROFILED: Final = 4
"""Kinds of operation in a profile."""
STEPS: Final = 8


class CohortBench:
    """A compiled language model and random embeddings as its input."""

    def __init__(self, language_xml: Path, properties: Mapping[str, str]) -> None:
        core = ov.Core()
        model = core.read_model(language_xml)
        last_position_only(model)
        self._compiled = core.compile_model(model, "CPU", dict(properties))
        self._hidden = model.input("inputs_embeds").get_partial_shape()[2].get_length()
        self._random = np.random.default_rng(0)
        self._calls = 0

    def measure(self) -> list[tuple[str, float]]:
        """(call, median milliseconds of TRIALS); takes some minutes with the mid model."""
        figures = [
            (f"prefill of {PROMPT_TOKENS} tokens", self._median(lambda: self._prefill(1)[1])),
            (
                f"prefill of 2 x {PROMPT_TOKENS} tokens in one batch",
                self._median(lambda: self._prefill(2)[1]),
            ),
        ]
        for rows in (1, 2, 4, MANY_ROWS, 2 * MANY_ROWS):
            figures += self._forks(rows)
        figures.append(
            (f"drop {MANY_ROWS} of {2 * MANY_ROWS} rows, a step included", self._median(self._drop))
        )
        for rows in (1, 4, MANY_ROWS):
            what = f"{SUFFIX_TOKENS} tokens each after a shared prompt, {rows} rows"
            figures.append((f"{what}, in one call", self._median(partial(self._suffix, rows, whole=True))))
            figures.append(
                (f"{what}, a token a call", self._median(partial(self._suffix, rows, whole=False)))
            )
        figures.append((f"merge {MANY_ROWS} cohorts of 1 row, without the step", self._median(self._merge)))
        return figures

    def profile(self, rows: int) -> list[tuple[str, float]]:
        """(kind of operation, milliseconds) in a step of `rows` after a shared prompt, longest first.

        The model must be compiled with PERF_COUNT.
        """
        cohort, _ = self._prefill(1)
        self._fork(cohort, rows)
        self._step(cohort)
        before = self._spent(cohort)
        for _ in range(STEPS):
            self._step(cohort)
        after = self._spent(cohort)
        per_step = {kind: (spent - before[kind]) / STEPS for kind, spent in after.items()}
        return sorted(per_step.items(), key=lambda item: -item[1])[:PROFILED]

    def _spent(self, cohort: Cohort) -> dict[str, float]:
        """Kind of operation → milliseconds in all calls so far; the plugin reports means."""
        milliseconds: defaultdict[str, float] = defaultdict(float)
        for operation in cohort.request.profiling_info:
            milliseconds[operation.node_type] += operation.real_time.total_seconds() * 1e3 * self._calls
        return milliseconds

    def _forks(self, rows: int) -> list[tuple[str, float]]:
        cohort, _ = self._prefill(1)
        self._fork(cohort, rows)
        first = self._step(cohort)
        rest = statistics.median(self._step(cohort) for _ in range(STEPS))
        return [
            (f"step of {rows} rows", 1e3 * rest),
            (f"fork 1 row into {rows}, beyond a step", 1e3 * (first - rest)),
        ]

    def _drop(self) -> float:
        cohort, _ = self._prefill(1)
        self._fork(cohort, 2 * MANY_ROWS)
        self._step(cohort)
        del cohort.rows[MANY_ROWS:]
        return self._step(cohort)

    def _suffix(self, rows: int, *, whole: bool) -> float:
        cohort, _ = self._prefill(1)
        self._fork(cohort, rows)
        # This step includes the fork, which is another figure.
        self._step(cohort)
        if whole:
            return self._step(cohort, SUFFIX_TOKENS)
        return sum(self._step(cohort) for _ in range(SUFFIX_TOKENS))

    def _merge(self) -> float:
        cohorts = [self._prefill(1)[0] for _ in range(MANY_ROWS)]
        return _timed(lambda: merge(cohorts, self._compiled.create_infer_request()))

    def _prefill(self, rows: int) -> tuple[Cohort, float]:
        cohort = Cohort(self._compiled.create_infer_request())
        cohort.begin(MOST)
        while len(cohort.rows) < rows:
            cohort.join(Row(cohort, MOST, len(cohort.rows), np.zeros(0, np.int64), 0))
        return cohort, self._step(cohort, PROMPT_TOKENS)

    def _fork(self, cohort: Cohort, rows: int) -> None:
        while len(cohort.rows) < rows:
            cohort.rows[0].fork(MOST, None)

    def _step(self, cohort: Cohort, positions: int = 1) -> float:
        pieces = {row: self._embeds(positions) for row in cohort.rows}
        self._calls += 1
        return _timed(lambda: cohort.append(pieces))

    def _embeds(self, positions: int) -> FloatArray:
        return 0.02 * self._random.standard_normal((positions, self._hidden), dtype=np.float32)

    def _median(self, seconds: Callable[[], float]) -> float:
        """Median milliseconds, after one trial that does not count, as each new shape is compiled first."""
        seconds()
        return 1e3 * statistics.median(seconds() for _ in range(TRIALS))


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main(
    size: ModelSize = "mid",
    weight_format: Annotated[OwnFormat, typer.Option(help="Weight format of our folder.")] = "fp16",
    out: Out = OUT,
) -> None:
    """Time forking, merging and dropping rows, as docs/engine.md gives them."""
    folders = Folders(out.resolve(), size)
    make_own(folders, progress.log)
    language_xml = folders.own(weight_format) / LANGUAGE_XML
    for what, milliseconds in CohortBench(language_xml, {}).measure():
        print(f"| {what} | {milliseconds:.0f} ms |")
    profiled = CohortBench(language_xml, {"PERF_COUNT": "YES"})
    for rows in (1, MANY_ROWS):
        for kind, milliseconds in profiled.profile(rows):
            print(f"| {kind} in a step of {rows} rows | {milliseconds:.1f} ms |")
