"""Images, questions and searches for both an engine and transformers, and the orders in which to submit them.

Each image has three questions, each with its own search and end-of-sequence tokens. Over all images every
grid shape meets every search.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contract.job import GenerationParameters, Question
from demo.scenes import draw, make_scene
from tests.support.reference import Expected, Reference
from tests.support.runners import EXACT
from worker.engine.loop import Engine
from worker.engine.request import Generations, Prefix, Request
from worker.llava.model import LlavaModel

NEW_TOKENS = 14
TIMEOUT_S = 600
QUESTIONS = ("Describe the image.", "What is it?", "Is the blue square to the left of the red star?")
STOP = ("e", "is", "\n")
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, penalty": {"repetition_penalty": 1.3},
    "greedy, n-grams": {"no_repeat_ngram_size": 2, "repetition_penalty": 0.8},
    "greedy, late end": {"min_new_tokens": 7},
    "greedy, stop": {"stop": STOP, "length_penalty": 0.5},
    "2 beams": {"num_beams": 2, "num_return_sequences": 2},
    "2 beams, early": {"num_beams": 2, "early_stopping": True, "length_penalty": 2.0, "min_new_tokens": 3},
    "4 beams": {"num_beams": 4, "length_penalty": 0.6},
    "4 beams, early": {"num_beams": 4, "early_stopping": True, "num_return_sequences": 3},
    "4 beams, never": {"num_beams": 4, "early_stopping": "never", "stop": STOP},
    "8 beams": {"num_beams": 8, "length_penalty": -0.5, "num_return_sequences": 8},
    "8 beams, never": {
        "num_beams": 8,
        "early_stopping": "never",
        "length_penalty": 2.0,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
    },
    "8 beams, all": {
        "num_beams": 8,
        "num_return_sequences": 4,
        "early_stopping": True,
        "length_penalty": -1.0,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 4,
        "stop": ("an", "th"),
    },
}
STRANGERS = (
    GenerationParameters(max_new_tokens=NEW_TOKENS, do_sample=True, num_return_sequences=3),
    GenerationParameters(max_new_tokens=2 * NEW_TOKENS, do_sample=True, temperature=2.0),
)


@dataclass(frozen=True)
class Ask:
    """One question about one image, by their numbers, and the search for its answer."""

    image: int
    question: int
    search: str

    @property
    def parameters(self) -> GenerationParameters:
        return GenerationParameters(max_new_tokens=NEW_TOKENS, **SEARCHES[self.search])


Found = dict[Ask, Generations]


class Material:
    """A checkpoint's images and questions, what transformers answers, and what a worker makes of them."""

    def __init__(self, checkpoint: Path, folder: Path, images: int, *, of_scenes: bool) -> None:
        """`of_scenes` for the model trained on scenes: it is undecided about noise."""
        self.reference = Reference(checkpoint)
        self.model = LlavaModel.load(folder, "CPU", EXACT)
        self.images = list(scenes(images) if of_scenes else noises(images, self.reference))
        self.features = [self.model.encode_image(image) for image in self.images]

    @property
    def asks(self) -> list[Ask]:
        searches = list(SEARCHES)
        return [
            Ask(image, question, searches[(image + 4 * question) % len(searches)])
            for image in range(len(self.images))
            for question in range(len(QUESTIONS))
        ]

    @property
    def every_ask(self) -> list[Ask]:
        """One question to each image, with every search."""
        images = range(len(self.images))
        return [Ask(image, image % len(QUESTIONS), search) for image in images for search in SEARCHES]

    @cached_property
    def expected(self) -> dict[Ask, tuple[Expected, ...]]:
        return {ask: self.expect(ask) for ask in self.asks}

    def expect(self, ask: Ask) -> tuple[Expected, ...]:
        ends = self.ends(ask.question)
        return self.reference.generate(self.images[ask.image], QUESTIONS[ask.question], ends, ask.parameters)

    def ends(self, question: int) -> tuple[int, ...]:
        """The model's own ends of sequence, alone or with others that come often enough to end answers."""
        vocabulary: int = self.reference.model.config.text_config.vocab_size
        others = range(40, vocabulary, vocabulary // 9)
        return (*self.model.eos_token_ids, *others[: (9, 2, 0)[question]])

    def request(
        self, ask: Ask, *, shares: bool = False, parameters: GenerationParameters | None = None
    ) -> Request:
        """What the service would submit; `shares` says whether with a prefix, `parameters` other ones."""
        prompt = self.model.prompt(
            Question(id="q", messages=QUESTIONS[ask.question]), self.features[ask.image]
        )
        parameters = parameters or ask.parameters
        assert prompt.prefix_key is not None
        return Request(
            inputs_embeds=prompt.inputs_embeds,
            token_ids=prompt.token_ids,
            eos_token_ids=self.ends(ask.question),
            parameters=parameters,
            prefix=Prefix(prompt.prefix_key, prompt.prefix_tokens) if shares else None,
            stops=self.model.stops(parameters.stop) if parameters.stop else None,
        )


def noises(count: int, reference: Reference) -> Iterator[Image.Image]:
    """Noise of 10 to 400 px a side, each grid shape in turn.

    No two parts of noise look the same, so that a swapped tile or row shows.
    """
    random = np.random.default_rng(5)
    grids = reference.grids
    for number in range(count):
        while True:
            height, width = np.exp(random.uniform(np.log(10), np.log(400), size=2)).astype(int).tolist()
            if reference.grid_of(height, width) == grids[number % len(grids)]:
                break
        yield Image.fromarray(random.integers(0, 256, size=(height, width, 3), dtype=np.uint8))


def scenes(count: int) -> Iterator[Image.Image]:
    for seed in range(count):
        yield draw(make_scene(seed, ("square", "wide", "tall")[seed % 3]))


def alone(engine: Engine, material: Material, asks: Iterable[Ask]) -> Found:
    """One question of each image, each submitted after the one before has ended."""
    return {
        ask: engine.submit(material.request(ask)).result(TIMEOUT_S)
        for ask in asks
        if ask.question == ask.image % len(QUESTIONS)
    }


def among_strangers(engine: Engine, material: Material, asks: Sequence[Ask]) -> Found:
    """All at once in any order with samplers between them; no two share a prefix."""
    futures: dict[Ask, Future[Generations]] = {}
    strangers: list[Future[Generations]] = []
    for number in np.random.default_rng(0).permutation(len(asks)).tolist():
        ask = asks[number]
        futures[ask] = engine.submit(material.request(ask))
        if number % len(QUESTIONS) == 0:
            stranger = STRANGERS[number % len(STRANGERS)]
            strangers.append(engine.submit(material.request(ask, parameters=stranger)))
    found = _results(futures)
    assert all(stranger.result(TIMEOUT_S) for stranger in strangers)
    return found


def sharing_prefixes(engine: Engine, material: Material, asks: Sequence[Ask]) -> Found:
    """All at once, the questions of an image one after another."""
    return _results({ask: engine.submit(material.request(ask, shares=True)) for ask in asks})


def joining_late(engine: Engine, material: Material, asks: Sequence[Ask]) -> Found:
    """An image's questions are submitted while its first is being answered, some sooner, some later."""
    found: Found = {}
    for image in dict.fromkeys(ask.image for ask in asks):
        first, *others = (ask for ask in asks if ask.image == image)
        found |= _results(_joined(engine, material, first, others, after=1 + image * 7 % 40))
    return found


def _joined(
    engine: Engine, material: Material, first: Ask, others: Sequence[Ask], after: int
) -> dict[Ask, Future[Generations]]:
    """`others` are submitted when it was asked `after` times whether a sequence of `first` ends here."""
    futures: dict[Ask, Future[Generations]] = {}
    requests = {ask: material.request(ask, shares=True) for ask in (first, *others)}
    own_stops = requests[first].stops
    asked = 0

    def stops(token_ids: Sequence[int]) -> bool:
        nonlocal asked
        asked += 1
        if asked == after:
            futures.update({ask: engine.submit(requests[ask]) for ask in others})
        return own_stops is not None and own_stops(token_ids)

    answer = engine.submit(replace(requests[first], stops=stops))
    answer.result(TIMEOUT_S)
    if asked < after:
        futures.update({ask: engine.submit(requests[ask]) for ask in others})
    return {first: answer, **futures}


Setting = Callable[[Engine, Material, Sequence[Ask]], Found]


def _results(futures: Mapping[Ask, Future[Generations]]) -> Found:
    return {ask: future.result(TIMEOUT_S) for ask, future in futures.items()}
