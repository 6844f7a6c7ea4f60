"""The measurement `visual-tokens`: an answer with all and with fewer image tokens; knows no worker."""

import time
from functools import partial
from itertools import count
from typing import Annotated, Final

import typer

from bench.compression import Contest, Timer
from bench.machine import write_figures
from bench.options import DEMO_FOLDER, OUT, ModelFolder, Out
from bench.workloads import draw
from contract.job import GenerationParameters, Question
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Request
from worker.engine.stateful import StatefulRunner
from worker.llava.model import LlavaModel

SHARES: Final = (1.0, 0.5, 0.25, 0.12)
PICTURE_PX: Final = (480, 640)
"""(height, width)"""
LIMITS: Final = Limits(kv_bytes=2**30, rows=1, step_tokens=4096)
QUESTION: Final = Question(id="q", messages="Describe the image.")


class Pipeline:
    """One model folder with OpenVINO's default hints; no queue, no cache, each call a new picture."""

    def __init__(self, model_folder: ModelFolder, new_tokens: int) -> None:
        self._model = LlavaModel.load(model_folder, "CPU", {})
        runner = StatefulRunner.load(self._model.language_xml, "CPU", {})
        self._engine = Engine(runner, self._model.embed, LIMITS)
        self._parameters = GenerationParameters(max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        self._seeds = count()
        self.tokens = len(self._model.encode_image(draw(PICTURE_PX, 0)).packed)

    def answer(self, visual_tokens: int) -> dict[str, float]:
        """What was done → seconds; all of it, and encoding the picture, of which choosing is a part."""
        image = draw(PICTURE_PX, next(self._seeds))
        begun, spent_s = time.perf_counter(), time.process_time()
        features = self._model.encode_image(image, visual_tokens=visual_tokens)
        encoded = time.perf_counter()
        prompt = self._model.prompt(QUESTION, features)
        request = Request(
            inputs_embeds=prompt.inputs_embeds,
            positions=prompt.positions,
            token_ids=prompt.token_ids,
            eos_token_ids=self._model.eos_token_ids,
            parameters=self._parameters,
        )
        self._engine.submit(request).result()
        return {
            "picture, ms": encoded - begun,
            "prompt and answer, ms": time.perf_counter() - encoded,
            "all, ms": time.perf_counter() - begun,
            "all, CPU ms": time.process_time() - spent_s,
        }

    def close(self) -> None:
        self._engine.close()


def main(
    model_folder: ModelFolder = DEMO_FOLDER,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in turns.")] = 5,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 32,
    out: Out = OUT,
) -> None:
    """Time an image's answer with all its tokens, and with 50, 25 and 12 % of them."""
    pipeline = Pipeline(model_folder, new_tokens)
    contestants: dict[str, Timer] = {
        f"{share:.0%}, {int(share * pipeline.tokens)} tokens": partial(
            pipeline.answer, int(share * pipeline.tokens)
        )
        for share in SHARES
    }
    contest = Contest(f"One picture of 480 x 640 px, {new_tokens} tokens", contestants)
    contest.hold(rounds)
    pipeline.close()
    print(contest.markdown())
    write_figures(out, "visual-tokens", contest.content())
