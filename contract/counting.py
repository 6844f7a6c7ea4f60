"""A number with its noun, in the singular or the plural."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """`number` with the singular `one` or the plural `many`, which defaults to `one` + "s"."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
