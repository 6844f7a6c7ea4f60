"""Samples depend only on a request's seed, whatever runs beside it, and have the model's frequencies."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contract.job import GenerationParameters
from contract.model_folder import LANGUAGE_XML
from tests.support.runners import KV_CACHE_BYTES, RUNNERS
from tests.support.torch_runner import TorchRunner
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.request import Generations, IntArray, Prefix, Request

TIMEOUT_S = 300
VOCABULARY = 300
LIMITS = Limits(kv_bytes=KV_CACHE_BYTES, rows=64, step_tokens=512)
ENDS = (2, 40, 80, 120, 160, 200, 240, 280)
SAMPLING: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.6, "top_k": 0},
    {"top_p": 0.9, "num_return_sequences": 4},
    {"min_p": 0.02, "repetition_penalty": 1.2, "temperature": 1.5},
)


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> TorchRunner:
    return TorchRunner.load(tiny_checkpoint)


@pytest.fixture(params=RUNNERS)
def engine(request: pytest.FixtureRequest, tiny_folder: Path, reference: TorchRunner) -> Iterator[Engine]:
    engine = Engine(RUNNERS[request.param](tiny_folder / LANGUAGE_XML), reference.embed, LIMITS)
    yield engine
    engine.close()


def prompt(number: int) -> IntArray:
    """24 positions that all prompts begin with, and some of its own."""
    shared = np.random.default_rng(0).integers(5, VOCABULARY, size=24)
    own = np.random.default_rng(1 + number).integers(5, VOCABULARY, size=3 + number % 11)
    return np.concatenate([shared, own])


def ask(reference: TorchRunner, number: int, seed: int, *, shares: bool = False, **options: Any) -> Request:
    token_ids = prompt(number)
    parameters = {"max_new_tokens": 20, **SAMPLING[number % len(SAMPLING)], **options}
    return Request(
        inputs_embeds=reference.embed(token_ids[None])[0],
        token_ids=token_ids,
        eos_token_ids=ENDS,
        parameters=GenerationParameters(do_sample=True, seed=seed, **parameters),
        prefix=Prefix(b"shared", 24) if shares else None,
    )


def token_ids(generations: Generations) -> list[tuple[int, ...]]:
    return [generation.token_ids for generation in generations]


def test_a_seed_decides_whatever_runs_beside(engine: Engine, reference: TorchRunner) -> None:
    numbers = list(range(24))
    alone = [
        token_ids(engine.submit(ask(reference, number, seed=number % 3)).result(TIMEOUT_S))
        for number in numbers
    ]
    for shares in (False, True):
        order = np.random.default_rng(2).permutation(numbers).tolist()
        futures = {n: engine.submit(ask(reference, n, seed=n % 3, shares=shares)) for n in order}
        assert [token_ids(futures[number].result(TIMEOUT_S)) for number in numbers] == alone
    assert len({len(tokens) for drawn in alone for tokens in drawn}) > 5, "some end early"


def test_another_seed_draws_otherwise(engine: Engine, reference: TorchRunner) -> None:
    futures = [engine.submit(ask(reference, 0, seed, min_new_tokens=8)) for seed in range(8)]
    drawn = [token_ids(future.result(TIMEOUT_S))[0] for future in futures]
    assert len(set(drawn)) == len(drawn)


def test_every_sequence_has_its_own_numbers(engine: Engine, reference: TorchRunner) -> None:
    """The first of many are those drawn when fewer are asked for."""
    asks = [ask(reference, 0, seed=5, num_return_sequences=n, min_new_tokens=8) for n in (8, 2)]
    eight, two = (token_ids(engine.submit(request).result(TIMEOUT_S)) for request in asks)
    assert len(set(eight)) == 8
    assert eight[:2] == two


def test_tokens_come_as_often_as_the_model_says(engine: Engine, reference: TorchRunner) -> None:
    """Chi-square over 1,280 pairs of first tokens; one seed in a thousand would fail by chance."""
    kept, samples, requests = 4, 64, 20
    options: dict[str, Any] = {"top_k": kept, "max_new_tokens": 2, "num_return_sequences": samples}
    futures = [engine.submit(ask(reference, 0, seed, **options)) for seed in range(requests)]
    drawn = [pair for future in futures for pair in token_ids(future.result(TIMEOUT_S))]
    first = _probabilities(reference, prompt(0), kept)
    counts = {pair: drawn.count(pair) for pair in set(drawn)}
    expected: dict[tuple[int, ...], float] = {}
    for token, probability in first.items():
        if token in ENDS:
            expected[(token,)] = probability * len(drawn)
            continue
        second = _probabilities(reference, np.append(prompt(0), token), kept)
        expected |= {(token, after): probability * p * len(drawn) for after, p in second.items()}
    assert counts.keys() <= expected.keys()
    chi_square = sum((counts.get(pair, 0) - n) ** 2 / n for pair, n in expected.items())
    # The quantile 0.999 by Wilson and Hilferty.
    freedom = len(expected) - 1
    assert chi_square < freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3


def _probabilities(reference: TorchRunner, history: IntArray, kept: int) -> dict[int, float]:
    """Probabilities of the `kept` most probable tokens after `history`, which sum to 1."""
    with torch.no_grad():
        embeds = torch.from_numpy(reference.embed(history[None]))
        top = reference.model(inputs_embeds=embeds, logits_to_keep=1).logits[0, -1].topk(kept)
    probabilities = torch.softmax(top.values, dim=-1)
    return dict(zip(top.indices.tolist(), probabilities.tolist(), strict=True))
