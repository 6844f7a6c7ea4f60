"""The targets of this engine, each as one number from the measurements; measures nothing."""

from dataclasses import dataclass
from typing import Literal

from bench.rounds import Rounds
from bench.utilisation import decode_rate

GENAI = ("genai-batch", "genai-single")
GENAI_INT4 = ("genai-int4-batch", "genai-int4-single")


@dataclass(frozen=True)
class Mark:
    """A target and its measured value, None if its works were not run."""

    what: str
    bound: Literal["at least", "at most"]
    wanted: float
    measured: float | None

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.wanted if self.bound == "at least" else self.measured <= self.wanted


def marks(rounds: Rounds) -> list[Mark]:
    """All targets. A ratio of times is the peer's over ours: above 1, we are faster."""

    def seconds(contest: str, work: str, *names: str) -> float | None:
        """Median seconds of the fastest of `names`."""
        return min(
            (s for name in names if (s := rounds.seconds(contest, name, work)) is not None), default=None
        )

    def faster(contest: str, work: str, ours: str, *peers: str) -> float | None:
        return _ratio(seconds(contest, work, *peers), seconds(contest, work, ours))

    def of_decode(name: str) -> float | None:
        return _ratio(decode_rate(rounds, "same-ir", name, 8), decode_rate(rounds, "same-ir", name, 1))

    def of_beams(name: str) -> float | None:
        return _ratio(seconds("same-ir", "beam-4", name), seconds("same-ir", "one-1", name))

    both = ("stateful", "paged")
    stateful_8 = faster("same-ir", "one-8", "stateful", *GENAI)
    stateful_8_in_one_call = faster("same-ir", "one-8", "stateful", "genai-batch")
    paged_8 = faster("same-ir", "one-8", "paged", *GENAI)
    on_int4 = faster("defaults", "distinct", "default", *GENAI_INT4)
    distinct = {name: faster("same-ir", "distinct", name, *GENAI) for name in both}
    beams = faster("frameworks", "beam-4", "stateful", "optimum-intel")
    return [
        Mark("8 questions, stateful, over GenAI in one call", "at least", 6.0, stateful_8_in_one_call),
        Mark("8 questions, stateful, over GenAI's best", "at least", 3.3, stateful_8),
        Mark("8 questions, paged, over GenAI's best", "at least", 4.0, paged_8),
        Mark("distinct pictures, stateful, over GenAI's best", "at least", 1.0, distinct["stateful"]),
        Mark("distinct pictures, paged, over GenAI's best", "at least", 1.1, distinct["paged"]),
        Mark("distinct pictures, our defaults over GenAI's on int4", "at least", 1.3, on_int4),
        *(Mark(f"4 beams over greedy, {name}", "at most", 1.15, of_beams(name)) for name in both),
        *(Mark(f"decode of 8 rows over 1, {name}", "at least", 3.0, of_decode(name)) for name in both),
        Mark("4 beams, stateful, over optimum-intel", "at least", 3.0, beams),
        *(
            Mark(
                f"share of the time between runner calls, {name}",
                "at most",
                0.05,
                _between_infers(rounds, name),
            )
            for name in both
        ),
    ]


def _between_infers(rounds: Rounds, name: str) -> float | None:
    """Share of time between runner calls, counted by the engine, for 8 questions with many tokens."""
    runs = rounds.runs("same-ir", name, "rate-8-many")
    between = sum(run.reply.counts.counters["between_s"] for run in runs)
    computing = sum(run.reply.counts.counters["runner_s"] for run in runs)
    return _ratio(between, between + computing) if runs else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below is not None else None
