"""Turns the engine's generations for a question into its answer; knows no image, no model and no thread."""

from collections.abc import Callable, Sequence

from contract.answer import Answer, ChoiceProbability, Flag, Generated
from worker.engine.choices import choice_probabilities
from worker.engine.repetition import ends_in_loop
from worker.engine.request import Generation, Generations

Decode = Callable[[Sequence[int]], str]


def free_answer(
    generations: Generations, prompt_tokens: int, decode: Decode, eos_token_ids: Sequence[int]
) -> Answer:
    """The answer whose text is the first generation; the other generations are its alternatives."""
    first, *others = (_generated(generation, decode(generation.token_ids)) for generation in generations)
    return Answer(
        **dict(first),
        prompt_tokens=prompt_tokens,
        flags=_flags(generations[0], first.text, eos_token_ids),
        alternatives=tuple(others),
    )


def chosen_answer(generations: Generations, prompt_tokens: int, choices: Sequence[str]) -> Answer:
    """The choice with the highest score, the first of equal ones; `generations` are in the choices' order."""
    probabilities = choice_probabilities([generation.score for generation in generations])
    best = max(range(len(choices)), key=lambda index: generations[index].score)
    return Answer(
        **dict(_generated(generations[best], choices[best])),
        prompt_tokens=prompt_tokens,
        choices=tuple(
            ChoiceProbability(text=text, probability=probability, score=generation.score)
            for text, probability, generation in zip(choices, probabilities, generations, strict=True)
        ),
    )


def _generated(generation: Generation, text: str) -> Generated:
    return Generated(
        text=text,
        finish_reason=generation.finish_reason,
        completion_tokens=len(generation.token_ids),
        score=generation.score,
        mean_log_prob=generation.mean_log_prob,
    )


def _flags(generation: Generation, text: str, eos_token_ids: Sequence[int]) -> tuple[Flag, ...]:
    token_ids = generation.token_ids
    text_ids = token_ids[:-1] if token_ids and token_ids[-1] in eos_token_ids else token_ids
    found: dict[Flag, bool] = {
        "truncated": generation.finish_reason == "length",
        "repetition": ends_in_loop(text_ids),
        "empty": not text,
    }
    return tuple(flag for flag, raised in found.items() if raised)
