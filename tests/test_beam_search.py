"""Greedy and beam search equal transformers' generate() on random models: whole sequences and scores."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from contract.failure import FailureCode, Refusal
from tests.torch_runner import TorchRunner
from worker.engine.beams import BeamSearch, top_k
from worker.engine.request import EarlyStopping, Generation, Request
from worker.engine.search import GreedySearch, Search, log_softmax

VOCABULARY = 48
PROMPT = np.array([[7, 3, 11, 5, 2, 9]])


@cache
def random_model(seed: int) -> MistralForCausalLM:
    """A causal language model whose logits differ clearly, yet leave more than one beam alive."""
    torch.set_num_threads(1)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=None,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MistralForCausalLM(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(std=0.4)
    return model


def run(search: Search, runner: TorchRunner, prompt: np.ndarray[Any, Any] = PROMPT) -> Generation:
    """One search from prefill to its end, without the engine's thread."""
    step = search.advance(runner.prefill(runner.embed(prompt)))
    while not isinstance(step, Generation):
        step = search.advance(runner.decode(runner.embed(step.token_ids[:, None]), step.beam_idx))
    runner.release()
    return step


def make_request(**parameters: Any) -> Request:
    return Request(inputs_embeds=np.zeros((1, 1), np.float32), **parameters)


def reference(model: MistralForCausalLM, eos_token_ids: tuple[int, ...], **parameters: Any) -> Any:
    return model.generate(
        torch.from_numpy(PROMPT),
        attention_mask=torch.ones(PROMPT.shape, dtype=torch.long),
        eos_token_id=list(eos_token_ids) or None,
        pad_token_id=0,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **parameters,
    )


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("num_beams", [2, 3, 4, 8])
def test_beam_search_equals_transformers(num_beams: int, early_stopping: EarlyStopping) -> None:
    draw = np.random.default_rng(num_beams)
    reasons = set()
    for seed in range(6):
        model = random_model(seed)
        runner = TorchRunner(model)
        for length_penalty in (-1.0, 0.0, 0.5, 1.0, 2.0):
            eos_token_ids = tuple(draw.choice(VOCABULARY, size=draw.integers(0, 5), replace=False).tolist())
            parameters: dict[str, Any] = {
                "num_beams": num_beams,
                "early_stopping": early_stopping,
                "length_penalty": length_penalty,
                "max_new_tokens": int(draw.integers(1, 21)),
            }
            request = make_request(eos_token_ids=eos_token_ids, **parameters)
            found = run(BeamSearch(request), runner)
            expected = reference(model, eos_token_ids, **parameters)
            where = f"model {seed}, eos {eos_token_ids}, {parameters}"
            assert list(found.token_ids) == expected.sequences[0, PROMPT.shape[1] :].tolist(), where
            assert found.score == pytest.approx(expected.sequences_scores[0].item(), rel=1e-6, abs=1e-5), (
                where
            )
            reasons.add(found.finish_reason)
    assert reasons == {"stop", "length"}, "the models exercise both ends"


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_greedy_equals_transformers(length_penalty: float) -> None:
    draw = np.random.default_rng(1)
    reasons = set()
    for seed in range(8):
        model = random_model(seed)
        eos_token_ids = tuple(draw.choice(VOCABULARY, size=4, replace=False).tolist())
        max_new_tokens = int(draw.integers(1, 21))
        request = make_request(
            eos_token_ids=eos_token_ids, max_new_tokens=max_new_tokens, length_penalty=length_penalty
        )
        found = run(GreedySearch(request), TorchRunner(model))
        expected = reference(model, eos_token_ids, max_new_tokens=max_new_tokens)
        tokens = expected.sequences[0, PROMPT.shape[1] :].tolist()
        assert list(found.token_ids) == tokens
        log_probs = model.compute_transition_scores(
            expected.sequences, expected.scores, normalize_logits=True
        )
        score = log_probs.sum().item() / len(tokens) ** length_penalty
        assert found.score == pytest.approx(score, abs=1e-5)
        reasons.add(found.finish_reason)
    assert reasons == {"stop", "length"}


def test_never_with_a_negative_penalty_estimates_from_the_present_length() -> None:
    """A better end is waited for, though at max_new_tokens its score would be below all finished ones."""
    penalty, end, a, b = -0.1, 0, 1, 2
    request = make_request(
        eos_token_ids=(end,), max_new_tokens=2000, num_beams=2, length_penalty=penalty, early_stopping="never"
    )
    search = BeamSearch(request)
    after_a, even = [0.4667, 1e-6, 0.5333, 1e-6], [0.25] * 4
    search.advance(np.log([[0.25, 0.75, 1e-6, 1e-7]], dtype=np.float32))
    both_finished = search.advance(np.log([after_a, even], dtype=np.float32))
    assert not isinstance(both_finished, Generation)
    found = search.advance(np.log([[1.0, 1e-9, 1e-9, 1e-9], even], dtype=np.float32))
    assert isinstance(found, Generation)
    assert found.token_ids == (a, b, end)
    assert found.score == pytest.approx(np.log(0.4) / 3**penalty, abs=1e-4)


def test_a_single_beam_is_greedy_search() -> None:
    for seed in range(8):
        runner = TorchRunner(random_model(seed))
        request = make_request(eos_token_ids=(5, 17, 30), max_new_tokens=16)
        greedy, beam = run(GreedySearch(request), runner), run(BeamSearch(request), runner)
        assert beam.token_ids == greedy.token_ids
        assert beam.score == pytest.approx(greedy.score, abs=1e-6)


def test_an_end_on_the_last_token_counts_as_stop() -> None:
    logits = np.array([[0.0, 1.0, 5.0, 2.0]], np.float32)
    for search, num_beams in ((GreedySearch, 1), (BeamSearch, 2)):
        ended = search(make_request(eos_token_ids=(2,), max_new_tokens=1, num_beams=num_beams)).advance(
            logits
        )
        assert isinstance(ended, Generation)
        assert (ended.token_ids, ended.finish_reason) == ((2,), "stop")


def test_top_k_puts_the_lower_index_first_among_equals() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        scores = draw.integers(0, 5, size=draw.integers(1, 60)).astype(np.float32)
        k = int(draw.integers(1, len(scores) + 1))
        by_hand = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:k]
        assert top_k(scores, k).tolist() == by_hand


def test_log_softmax_equals_torch() -> None:
    logits = np.random.default_rng(0).normal(scale=8.0, size=(4, 32064)).astype(np.float32)
    expected = torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()
    assert log_softmax(logits).dtype == np.float32
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_an_error(broken: float) -> None:
    logits = np.array([[0.0, broken, 1.0]], np.float32)
    with pytest.raises(FloatingPointError):
        GreedySearch(make_request(eos_token_ids=(), max_new_tokens=2)).advance(logits)
    with pytest.raises(FloatingPointError):
        BeamSearch(make_request(eos_token_ids=(), max_new_tokens=2, num_beams=1)).advance(logits)


def test_a_length_penalty_beyond_all_numbers_is_refused() -> None:
    for length_penalty in (float("nan"), float("inf"), 400.0, -400.0):
        with pytest.raises(Refusal) as refused:
            make_request(eos_token_ids=(), max_new_tokens=20, length_penalty=length_penalty)
        assert refused.value.failure.code is FailureCode.INVALID_JOB


def test_a_length_penalty_that_hides_every_score_is_refused() -> None:
    request = make_request(eos_token_ids=(), max_new_tokens=20, num_beams=2, length_penalty=-12.0)
    with pytest.raises(Refusal, match="length_penalty"):
        run(BeamSearch(request), TorchRunner(random_model(0)))


def test_malformed_requests_raise() -> None:
    good = np.zeros((3, 4), np.float32)
    malformed: list[Any] = [good[0], good[:0], good.astype(np.float64)]
    for embeds in malformed:
        with pytest.raises(ValueError, match="inputs_embeds"):
            Request(inputs_embeds=embeds, max_new_tokens=1, eos_token_ids=())
    wrongs: list[dict[str, Any]] = [{"max_new_tokens": 0}, {"max_new_tokens": 1, "num_beams": 0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="at least 1"):
            Request(inputs_embeds=good, eos_token_ids=(), **wrong)
