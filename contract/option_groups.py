"""Lets a command take its options grouped in dataclasses; knows no option."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def with_groups(function: FunctionT) -> FunctionT:
    """Replace each parameter of a dataclass type by one option for each of its fields."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        kind: Any = groups[parameter.name]
        own = get_type_hints(kind, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=own[field.name]
            )
            for field in fields(kind)
        ]

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        for name, kind in groups.items():
            own = {field.name: given.pop(field.name) for field in fields(kind)}
            given[name] = kind(**own)  # type: ignore[operator]
        return function(**given)

    # Typer wants parameters without a default first.
    parameters.sort(key=lambda one: one.default is not inspect.Parameter.empty)
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    )
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command  # type: ignore[return-value]
