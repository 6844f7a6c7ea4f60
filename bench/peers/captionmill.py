"""This project's worker without its broker: threads pass jobs to the service, as Celery's threads do."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby

from bench.peers.protocol import Counts, Setup, Task, serve
from contract.answer import Answer
from contract.job import GenerationParameters, ImagePath, Job, Question
from worker.settings import Settings
from worker.startup import load_worker


class Captionmill:
    """One worker. Options are its settings; `properties` are further ones for OpenVINO."""

    def __init__(self, setup: Setup) -> None:
        settings = Settings.model_validate(
            {"model_folder": setup.folder, "openvino_properties": setup.properties, **setup.options}
        )
        self._worker = load_worker(settings)

    def answer(self, task: Task) -> Counts:
        jobs = jobs_of(task)
        before = asdict(self._worker.parts.engine_times)
        threads = len(jobs) if task.mode == "batch" else 1
        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(self._worker.parts.service.answer, jobs))
        answers = []
        for outcome in (question.outcome for result in results for question in result.results):
            if not isinstance(outcome, Answer):
                raise RuntimeError(f"no answer: {outcome.message}")
            answers.append(outcome)
        after = asdict(self._worker.parts.engine_times)
        return Counts(
            prompt_tokens=sum(answer.prompt_tokens for answer in answers),
            new_tokens=sum(answer.completion_tokens for answer in answers),
            counters={name: after[name] - before[name] for name in after},
        )

    def close(self) -> None:
        """End the engine's thread."""
        self._worker.close()


def jobs_of(task: Task) -> list[Job]:
    """A job for each sequence of asks about one picture with answers of one length."""
    jobs: list[Job] = []
    for (picture, new_tokens), asks in groupby(task.asks, key=lambda ask: (ask.picture, ask.new_tokens)):
        parameters = GenerationParameters(
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            num_beams=task.num_beams,
            visual_tokens=task.visual_tokens,
        )
        questions = tuple(Question(id=str(n), messages=ask.question) for n, ask in enumerate(asks))
        jobs.append(
            Job(
                run="bench",
                index=len(jobs),
                image=ImagePath.of(picture) if picture else None,
                questions=questions,
                parameters=parameters,
                detail=task.detail,
            )
        )
    return jobs


if __name__ == "__main__":
    serve(Captionmill)
