"""Says how many there are of something, in words that fit one as well as many."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number with what is said of `one`, or of `many`, which is `one` with an s if it is not given."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
