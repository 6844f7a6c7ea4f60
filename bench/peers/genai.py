"""OpenVINO GenAI's ContinuousBatchingPipeline; runs in the peers' own environment."""

from typing import Any

import numpy as np
import openvino
import openvino_genai
from PIL import Image

from bench.peers.protocol import Ask, Counts, Setup, Task, serve


class GenAI:
    """One pipeline; options are fields of SchedulerConfig, which has defaults for the others."""

    def __init__(self, setup: Setup) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        for name, value in setup.options.items():
            setattr(scheduler, name, value)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            setup.folder, scheduler, "CPU", setup.properties
        )

    def answer(self, task: Task) -> Counts:
        calls = [task.asks] if task.mode == "batch" else [(ask,) for ask in task.asks]
        prompt_tokens = new_tokens = 0
        for asks in calls:
            metrics = [result.perf_metrics for result in self._generate(asks, task.num_beams)]
            prompt_tokens += sum(metric.get_num_input_tokens() for metric in metrics)
            # Each result has the new tokens of the whole call.
            new_tokens += metrics[0].get_num_generated_tokens()
        return Counts(prompt_tokens, new_tokens)

    def _generate(self, asks: tuple[Ask, ...], num_beams: int) -> list[Any]:
        configs = [
            openvino_genai.GenerationConfig(
                max_new_tokens=ask.new_tokens, ignore_eos=True, num_beams=num_beams, num_return_sequences=1
            )
            for ask in asks
        ]
        questions = [ask.question for ask in asks]
        pictures = [[_tensor(ask.picture)] if ask.picture else [] for ask in asks]
        results: list[Any] = self._pipeline.generate(questions, images=pictures, generation_config=configs)
        return results


def _tensor(picture: str) -> openvino.Tensor:
    """(1, height, width, 3) uint8."""
    return openvino.Tensor(np.asarray(Image.open(picture).convert("RGB"))[None])


if __name__ == "__main__":
    serve(GenAI)
