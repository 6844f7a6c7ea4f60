"""The producer as a library: submit a source, stream its answers, ask one question.

    from producer import Client

    client = Client("redis://127.0.0.1:6379/0")
    run = client.submit("photos", questions=["What is this?"], out="answers")
    for row in run:
        print(row.id, row.answers[0].outcome)

It writes the same run folder as the command line, and each can continue what the other began.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from contract.answer import Answer
from contract.broker import VISIBILITY_TIMEOUT_S
from contract.failure import Failure
from contract.job import Detail, GenerationParameters
from producer.ask import InteractiveQuestion, ask
from producer.connection import connect
from producer.model_choice import model_id, model_to_ask
from producer.outputs import NotWrittenError
from producer.planning import plan_run
from producer.question_planner import Flagged
from producer.questions import Prompt, read_prompts
from producer.queue import Queue
from producer.rows import AnsweredRow
from producer.run import Round
from producer.run_folder import RunFolder
from producer.settings import server_url
from producer.sinks.sink import Sink, SinkOptions
from producer.sources import BadRowPolicy, SourceOptions, shown
from producer.submission import Submission
from producer.work import work_on
from producer.workers import live_workers


class Client:
    """A connection to broker and store, for one thread; close it or use it in a `with` block."""

    def __init__(self, redis_url: str | None = None) -> None:
        """Without `redis_url` it takes CAPTIONMILL_REDIS_URL.

        Raises pydantic's ValidationError for an invalid URL, ServerError if no server answers.
        """
        self.url = server_url(redis_url)
        self.connection = connect(self.url)
        self.queue = Queue(self.url, self.connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.queue.close()
        self.connection.close()

    def submit(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        out: str | Path,
        add: bool = False,
        questions: Sequence[str | Prompt] = (),
        parameters: Mapping[str, Any] | GenerationParameters | None = None,
        on_flag: Mapping[str, Mapping[str, Any]] | None = None,
        detail: Detail = "high",
        options: SourceOptions | None = None,
        bad_rows: BadRowPolicy = "refuse",
        sinks: Sequence[str] = ("jsonl",),
        sink_options: SinkOptions | None = None,
        ship: bool = False,
        model: str | None = None,
        window: int | None = None,
        keep_going: bool = False,
        overwrite: bool = False,
    ) -> "Answers":
        """Plan a run of every row of `source` in the folder `out`. Iterating over the result drives the run.

        `source` is one source, or a list. If `out` holds a run of other sources, `add` keeps them too.
        `questions` are for rows that have none of their own; `{column}` in them is filled in. `parameters`
        are fields of GenerationParameters. The other arguments are the options of `captionmill run`.
        Questions whose answer `out` has are not asked again. `overwrite` replaces output files that were
        changed since, or that others wrote. Raises SourceError, LedgerError, SinkError, LiveModelError or
        pydantic's ValidationError before anything is sent; `out` is then unchanged.
        """
        texts = [one for one in questions if isinstance(one, str)]
        given = [one for one in questions if not isinstance(one, str)]
        if not isinstance(parameters, GenerationParameters):
            parameters = GenerationParameters.model_validate(dict(parameters or {}))
        sources = (source,) if isinstance(source, str | Path) else source
        submission = Submission(
            sources=tuple(map(str, sources)),
            options=options or SourceOptions(),
            bad_rows=bad_rows,
            prompts=(*read_prompts(texts, None, None), *given),
            parameters=parameters,
            on_flag={Flagged(flag): dict(changes) for flag, changes in (on_flag or {}).items()},
            detail=detail,
            model=None if model is None else model_id(model),
            ship=ship,
            sinks=tuple(sinks),
            sink_options=sink_options or SinkOptions(),
        )
        submission = submission.joined(Path(out), add=add)
        model_to_ask(submission.model, {one.model for one in live_workers(self.connection)}, None)
        plan_run(Path(out), submission, submission.open(), overwrite=overwrite)
        return Answers(self, RunFolder(Path(out)), window, keep_going)

    def resume(
        self,
        out: str | Path,
        *,
        window: int | None = None,
        keep_going: bool = False,
        overwrite: bool = False,
    ) -> "Answers":
        """Go on with the run in folder `out`; `overwrite` writes all outputs again.

        Raises LedgerError if there is no run.
        """
        folder = RunFolder(Path(out))
        if overwrite:
            folder.begin_outputs()
        return Answers(self, folder, window, keep_going)

    def ask(
        self,
        image: str | Path | bytes | None,
        question: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        detail: Detail = "high",
        choices: Sequence[str] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer | Failure:
        """Ask one question ahead of all bulk work; `on_text` gets the answer piece by piece.

        `image` is a path, a URL or the file's bytes. Raises NoWorkerError.
        """
        asked = InteractiveQuestion(
            image=image,
            question=question,
            parameters=GenerationParameters.model_validate(dict(parameters or {})),
            detail=detail,
            choices=None if choices is None else tuple(choices),
        )
        return ask(self.connection, self.queue, asked, on_text)


class Answers:
    """The answered rows of a run: every row of the submission once, those answered earlier first.

    An iterator ends when every row is answered and on disk; if it is left early, `resume` goes on. Raises
    NotWrittenError after the last row if an output is not on disk. Without `keep_going` it raises
    FirstJobsFailError when the first jobs all fail for one reason, before any of their rows.
    """

    def __init__(self, client: Client, folder: RunFolder, window: int | None, keep_going: bool) -> None:
        self._client = client
        self._window = window
        self._keep_going = keep_going
        self.folder = folder
        self.last_round: Round | None = None
        """The run's progress."""

    @property
    def rows(self) -> int:
        return self.folder.ledger.rows()

    def __iter__(self) -> Iterator[AnsweredRow]:
        tap = _Tap()
        yield from self._emitted_before()
        with work_on(
            self.folder,
            self._client.connection,
            self._client.queue,
            feed=True,
            collect=True,
            window=self._window,
            further_sinks=(tap,),
            keep_going=self._keep_going,
        ) as work:
            for self.last_round in work.run.rounds():
                while tap.rows:
                    yield tap.rows.popleft()
            yield from tap.rows
            work.finish(keep_done_s=2 * VISIBILITY_TIMEOUT_S)
            missing = self.folder.ledger.count_unwritten()
            if missing:
                counts = ", ".join(f"{count} of {sink}" for sink, count in missing.items())
                raise NotWrittenError(
                    f"Outputs are not on disk: {counts}; failures.jsonl names them. When the cause is gone: "
                    f"captionmill export {shown(self.folder.path)}"
                )

    async def __aiter__(self) -> AsyncIterator[AnsweredRow]:
        """The same rows, while other tasks run. One thread at a time drives the run."""
        rows = iter(self)
        end = object()
        while (row := await asyncio.to_thread(next, rows, end)) is not end:
            assert isinstance(row, AnsweredRow)
            yield row

    def _emitted_before(self) -> Iterator[AnsweredRow]:
        place, last = 0, self.folder.ledger.state.get("emitted") or 0
        while place < last:
            rows, place = self.folder.ledger.completed(place)
            yield from rows

    def wait(self) -> None:
        """Drive the run to its end; the answers are on disk."""
        deque(self, maxlen=0)


class _Tap(Sink):
    """Keeps rows for whoever iterates."""

    def __init__(self) -> None:
        super().__init__("tap")
        self.rows: deque[AnsweredRow] = deque()

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        self.rows.extend(rows)
        return {}
