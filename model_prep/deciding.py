"""The preset auto: decides for each part between 8 and 16 bits by what 8 bits lose; computes nothing.

A part begins in 8 bits. If it loses more than BOUNDS, the layers that lose most stay in 16 bits, first few of
them, then more. If that does not help either, the whole part is stored in 16 bits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from model_prep.layer_names import in_words
from model_prep.settings import LanguageSettings, PrepSettings, VisionSettings
from model_prep.verified import BOUNDS, Choice, Try, Verification, share

Choices = Mapping[str, Choice]
"""`vision` and `language` → how that part is stored."""
IN_WORDS: Final = {"vision": "vision tower", "language": "language model"}
KEPT_GROUPS: Final = (1, 2, 4)
"""Numbers of groups of layers that stay in 16 bits, try by try; fewer than half of all."""
MOST_GROUPS: Final = 8
"""Groups of layers whose loss is measured, without what is outside the layers."""


def first_choices(asked: PrepSettings, obstacles: Mapping[str, str | None]) -> dict[str, Choice]:
    """8 bits to be tried for each part that `asked` has in 8 bits, else 16 where there is an obstacle."""
    tried = {"vision": asked.vision.needs_calibration, "language": asked.language.activations is not None}
    return {
        part: Choice(format="int8", why="") if obstacles[part] is None else stays(part, str(obstacles[part]))
        for part, wanted in tried.items()
        if wanted
    }


def stays(part: str, reason: str, choice: Choice | None = None) -> Choice:
    """The choice of 16 bits; `reason` is the rest of a sentence, and `choice` what was tried before."""
    why = f"The {IN_WORDS[part]} is in 16 bits, because {reason}."
    tried = choice or Choice(format="fp16", why="")
    return tried.model_copy(update={"format": "fp16", "why": why, "kept_layers": ()})


def settings_with(asked: PrepSettings, choices: Choices) -> PrepSettings:
    """The settings of a conversion with these choices."""
    language, vision = asked.language, asked.vision
    if "language" in choices:
        kept = choices["language"].kept_layers
        in_8_bits = choices["language"].format == "int8"
        language = language.model_copy(update={"kept_layers": kept}) if in_8_bits else LanguageSettings()
    if "vision" in choices:
        kept = choices["vision"].kept_layers
        in_8_bits = choices["vision"].format == "int8"
        vision = vision.model_copy(update={"kept_layers": kept}) if in_8_bits else VisionSettings()
    return asked.model_copy(update={"language": language, "vision": vision})


def judged(choices: Choices, found: Verification) -> dict[str, Choice]:
    """The choices after this verification: tried parts within the bounds are decided."""
    return {
        part: _judged(part, choice, found) if choice.is_tried else choice for part, choice in choices.items()
    }


def _judged(part: str, choice: Choice, found: Verification) -> Choice:
    loss = found.losses.get(part)
    if loss is None or found.parity is None:
        return stays(part, f"its loss in 8 bits was not measured: {_clause(found.left_out)}", choice)
    tried = Try(kept_layers=choice.kept_layers, token_agreement=loss.token_agreement, logit_kl=loss.logit_kl)
    choice = choice.model_copy(update={"tries": (*choice.tries, tried)})
    if not BOUNDS.hold(tried.token_agreement, tried.logit_kl):
        return choice
    kept = choice.kept_layers
    but = f" but for {in_words(kept)}, where most was lost" if kept else ""
    why = f"The {IN_WORDS[part]} is in 8 bits{but}: {_figures(tried, found.parity.tokens)}."
    return choice.model_copy(update={"why": why})


def next_choices(choices: Choices, rank: Callable[[str], dict[str, float]]) -> dict[str, Choice]:
    """What to try next for each part that is still tried, or 16 bits if nothing is left.

    `rank` measures a part's loss by layers, as Choice has it; none if that would take too long.
    """
    return {
        part: _next(part, choice, rank) if choice.is_tried else choice for part, choice in choices.items()
    }


def _next(part: str, choice: Choice, rank: Callable[[str], dict[str, float]]) -> Choice:
    losses = choice.loss_by_layers or rank(part)
    worst = sorted(losses, key=lambda group: -losses[group])
    tries = len(choice.tries)
    groups = KEPT_GROUPS[tries - 1] if tries <= len(KEPT_GROUPS) else len(worst)
    if 2 * groups < len(worst):
        kept = tuple(layer for group in worst[:groups] for layer in group.split())
        return choice.model_copy(update={"kept_layers": kept, "loss_by_layers": losses})
    best = max(choice.tries, key=lambda one: (one.token_agreement, -one.logit_kl))
    also = f", with {in_words(best.kept_layers)} in 16 bits" if best.kept_layers else ""
    return stays(
        part,
        f"8 bits lose too much{also}: {_figures(best)}",
        choice.model_copy(update={"loss_by_layers": losses}),
    )


def groups_of(layers: Sequence[str]) -> list[tuple[str, ...]]:
    """Neighbouring layers together, at most MOST_GROUPS groups, and the last of `layers` alone."""
    *inner, outside = layers
    size = max(1, -(-len(inner) // MOST_GROUPS))
    return [*(tuple(inner[first : first + size]) for first in range(0, len(inner), size)), (outside,)]


def _figures(tried: Try, tokens: int | None = None) -> str:
    compared = "tokens" if tokens is None else f"{tokens} tokens"
    return (
        f"{share(tried.token_agreement)} of {compared} are the same (at least {BOUNDS.token_agreement:.0%}), "
        f"and the divergence is {tried.logit_kl:.2g} nats (at most {BOUNDS.logit_kl:g})"
    )


def _clause(sentence: str | None) -> str:
    return "nothing was compared" if sentence is None else sentence[0].lower() + sentence[1:].rstrip(".")
