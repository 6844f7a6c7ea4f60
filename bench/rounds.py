"""Runs the works of the contestants in turn, one at a time; prints no table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Final, Literal

from bench.comparisons import Contest, Contestant
from bench.peer import PeerError, Pool, Program
from bench.peers.protocol import Ask, Mode, Reply, Task
from bench.workloads import Work

TRIED_ASKS: Final = 2
"""Asks of a work on which the setups of a peer are tried."""
WARM_UP_TOKENS: Final = 4
"""Tokens of the first answer of a loaded peer, which does not count."""
TRY_AS: Final = {"one-8": "one-4", "rate-8-few": "one-4", "rate-8-many": "one-4"} | dict.fromkeys(
    ("beam-4", "rate-1-few", "rate-1-many", "prefill"), "one-1"
)
"""Work → the work whose best setup it uses."""

Stage = Literal["try", "run"]


@dataclass(frozen=True)
class Measurement:
    """A task that a program answered."""

    contest: str
    contestant: str
    work: str
    stage: Stage
    run: int
    program: Program
    mode: Mode
    reply: Reply


@dataclass(frozen=True)
class Breakdown:
    """A task in which a program failed, and its message."""

    contest: str
    contestant: str
    work: str
    program: Program
    message: str


@dataclass
class Rounds:
    """All measurements and breakdowns so far, in order."""

    works: Mapping[str, Work]
    pictures: Path
    pool: Pool
    on_turn: Callable[[str], None]
    measurements: list[Measurement] = field(default_factory=list)
    breakdowns: list[Breakdown] = field(default_factory=list)

    def hold(self, contest: Contest, work: Work, runs: int) -> None:
        """Try the contestants with several setups, then measure `runs` rounds in turn.

        A contestant that breaks down is out of this work; the others go on.
        """
        able = [c for c in contest.contestants if work.name not in contest.skips | c.skips]
        chosen = [one for contestant in able if (one := self._set_up(contest.name, contestant, work))]
        self.pool.only([contestant.programs[0] for contestant in chosen])
        for run in range(runs):
            # Rotate the order: the clock rate may change within a round.
            turn = run % len(chosen) if chosen else 0
            for contestant in chosen[turn:] + chosen[:turn]:
                if not self._measure(contest.name, contestant, work, "run", run):
                    chosen.remove(contestant)

    def runs(self, contest: str, contestant: str, work: str) -> list[Measurement]:
        """The measurements that count, without tries."""
        return self._of(contest, contestant, work, "run")

    def seconds(self, contest: str, contestant: str, work: str) -> float | None:
        """Median seconds of the runs; None without runs."""
        runs = self.runs(contest, contestant, work)
        return median(m.reply.seconds for m in runs) if runs else None

    def _of(self, contest: str, contestant: str, work: str, stage: Stage) -> list[Measurement]:
        wanted = (contest, contestant, work, stage)
        return [m for m in self.measurements if (m.contest, m.contestant, m.work, m.stage) == wanted]

    def _set_up(self, contest: str, contestant: Contestant, work: Work) -> Contestant | None:
        """The contestant with its fastest program for the work, tried now unless it was before."""
        if len(contestant.programs) == 1:
            return contestant
        sample = self.works[TRY_AS.get(work.name, work.name)].first(TRIED_ASKS)
        if not self._of(contest, contestant.name, sample.name, "try"):
            for program in contestant.programs:
                self.pool.only([program])
                self._measure(contest, replace(contestant, programs=(program,)), sample, "try", 0)
        tries = self._of(contest, contestant.name, sample.name, "try")
        if not tries:
            return None
        return replace(contestant, programs=(min(tries, key=lambda m: m.reply.seconds).program,))

    def _measure(self, contest: str, contestant: Contestant, work: Work, stage: Stage, run: int) -> bool:
        """Measure one task; record a breakdown and return False if the contestant fails."""
        (program,) = contestant.programs
        self.on_turn(f"{contest}, {work.name}: {contestant.name}, {stage} {run + 1}")
        try:
            reply = self._answer(program, contestant.mode, work, f"{stage}-{run}")
        except PeerError as error:
            self.pool.discard(program)
            self.on_turn(str(error))
            self.breakdowns.append(Breakdown(contest, contestant.name, work.name, program, str(error)))
            return False
        self.measurements.append(
            Measurement(contest, contestant.name, work.name, stage, run, program, contestant.mode, reply)
        )
        return True

    def _answer(self, program: Program, mode: Mode, work: Work, label: str) -> Reply:
        """The reply to a work. Raises PeerError, also for answers of another length."""
        peer, cold = self.pool.peer(program)
        if cold:
            ask, *_ = work.drawn(self.pictures, f"warm-up-{mode}")
            short = Ask(ask.picture, ask.question, WARM_UP_TOKENS)
            peer.answer(Task((short,), work.num_beams, work.detail, mode, work.visual_tokens))
        # Also by mode: a process that answers in both must not have seen the prompts.
        asks = work.drawn(self.pictures, f"{label}-{mode}")
        reply = peer.answer(Task(asks, work.num_beams, work.detail, mode, work.visual_tokens))
        if reply.counts.new_tokens != work.new_tokens:
            raise PeerError(
                f"{reply.counts.new_tokens} tokens were generated where {work.new_tokens} were due"
            )
        return reply
