"""Decides which requests of the batch go into the next step; knows no request that waits."""

from collections.abc import Sequence
from typing import Final

from worker.engine.admission import Limits
from worker.engine.scheduled_request import ScheduledRequest, StepItem

PROMPT_TOKENS_BESIDE: Final = 512
"""Most prompt tokens without priority in one mixed step, or one longer prompt. A prompt with priority waits
for that step. A LLaVA prompt is at least as long."""


def mixed_step(running: Sequence[ScheduledRequest], limits: Limits) -> list[StepItem]:
    """All tokens and prompts at once, for which admission made room; prompts with priority without others.

    If requests with priority may come, PROMPT_TOKENS_BESIDE of the other prompts, from the first.
    """
    prompts = [one for one in running if one.prompt_left]
    now = [one for one in prompts if one.request.has_priority] or prompts
    if limits.priority_rows and now is prompts:
        now = _first(prompts, PROMPT_TOKENS_BESIDE) or prompts[:1]
    return [
        StepItem(one, _rest_of_prompt(one) if one.prompt_left else None)
        for one in running
        if not one.prompt_left or one in now
    ]


def separate_step(running: Sequence[ScheduledRequest], limits: Limits) -> list[StepItem]:
    """Prompts before tokens, so that many rows can decode together; prompts with priority without others.

    If requests with priority may come, prompts go one by one. A runner that does not mix steps computes each
    by itself anyway, and a newcomer then waits for one of them. A fork that joins more rows than come with it
    goes along with their tokens, one position a step. Given as a whole, each of its positions would be
    computed for all of these rows.
    """
    whole = [one for one in running if one.prompt_left and not _joins(one, running)]
    prompts = _first([one for one in whole if one.request.has_priority] or whole, limits.step_tokens)
    if limits.priority_rows:
        prompts = prompts[:1]
    if prompts:
        return [StepItem(one, _rest_of_prompt(one)) for one in prompts]
    return [
        StepItem(one, slice(one.prompt_done, one.prompt_done + 1) if one.prompt_left else None)
        for one in running
    ]


def _joins(fork: ScheduledRequest, running: Sequence[ScheduledRequest]) -> bool:
    """Whether it is a fork, and more rows of its prefix decode than requests of it prefill."""
    prefix = fork.request.prefix
    if prefix is None or fork.prompt_done == 0:
        return False
    kin = [one for one in running if one.request.prefix and one.request.prefix.key == prefix.key]
    decoding = sum(len(one.sequences) for one in kin if not one.prompt_left)
    return decoding > sum(1 for one in kin if one.prompt_left)


def _first(prompts: Sequence[ScheduledRequest], most_tokens: int) -> list[ScheduledRequest]:
    """The first prompts whose remaining tokens are at most `most_tokens` together."""
    tokens, fitting = 0, []
    for one in prompts:
        tokens += one.prompt_left
        if tokens > most_tokens:
            break
        fitting.append(one)
    return fitting


def _rest_of_prompt(scheduled: ScheduledRequest) -> slice:
    return slice(scheduled.prompt_done, len(scheduled.request.inputs_embeds))
