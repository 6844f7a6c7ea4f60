"""Writes docs/settings.md from the settings classes: `python -m captionmill.settings_page`."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic.fields import FieldInfo

from captionmill.setting_options import default, described, groups, option, takes_several, what_if_unset
from captionmill.worker import CONCURRENCY
from producer.settings import Settings as ProducerSettings
from worker.settings import variable

PAGE: Final = Path("docs/settings.md")
"""Path from the repository's root."""
BEGIN: Final = f"""\
# Settings

`python -m captionmill.settings_page` (`make settings`) writes this page from `worker/settings.py` and
`producer/settings.py`; change the descriptions there.

## A worker's settings

Each setting is an option of `captionmill worker`, and an environment variable that `celery -A worker worker`
also reads. The option wins over the variable. Both are read once, at the start. An unknown variable that
begins with `CAPTIONMILL_` is refused, with the name of the nearest setting.

An option for several values is repeated; its variable separates folders by `:`, as `PATH` does, and
everything else by commas. A name with `_s` is in seconds, one with `_px` in pixels.

`captionmill worker` has two more options, Celery's `-c` and `-l`: `--concurrency` ({CONCURRENCY}), the number
of jobs taken at once, and `--log-level` (`INFO`).
"""
PRODUCER: Final = """\
## All other commands

`captionmill run`, `ask`, `top` and every other command that uses a server read only these two. They ignore a
worker's variables, so one environment serves both.
"""


def page() -> str:
    parts = [BEGIN]
    for title, settings in groups().items():
        parts.append(f"### {title}\n")
        parts.append(table(_worker_row(name, field) for name, field in settings.items()))
    parts.append(PRODUCER)
    parts.append(_producer_table(ProducerSettings.model_fields))
    return "\n".join(parts)


def table(
    rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = ("variable", "option", "what", "default")
) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _worker_row(name: str, field: FieldInfo) -> tuple[str, ...]:
    told = described(field)
    if takes_several(field):
        told = f"{told} May be repeated."
    return f"`{variable(name)}`", f"`{option(name)}`", told, _default(field)


def _default(field: FieldInfo) -> str:
    typed = default(field)
    if typed is None:
        return what_if_unset(field) or "required"
    value, space, more = typed.partition(" (")
    return f"`{value}`{space}{more}"


def _producer_table(fields: Mapping[str, FieldInfo]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, field in fields.items():
            yield f"`{variable(name)}`", described(field)

    return table(rows(), ("variable", "what"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
