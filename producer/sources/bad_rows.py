"""Rows that cannot be asked: all of them in one refusal, or each a failure; knows no form of source."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final, Literal

from contract.counting import counted
from contract.failure import Failure, FailureCode
from producer.rows import Row
from producer.sources.refusal import SourceError

BadRowPolicy = Literal["refuse", "skip"]
MOST_LISTED: Final = 20
MOST_KINDS: Final = 50
MOST_BAD: Final = 100_000
"""A source with more of them is refused without reading on."""
LONGEST_REASON: Final = 300
"""Characters of one row's reason in the list."""
NO_CHARACTERS: Final = "bytes that are no characters"
"""As contract.base says of text that is not UTF-8."""
_IN_TEXT: Final = re.compile(r", (?:line|entry) \d+$")
_QUOTED: Final = re.compile(r'"[^"]*"')
_NUMBER: Final = re.compile(r"\d+")
_SKIP: Final = "--bad-rows skip makes {them} of {their} and asks the others"


class BadRows:
    """Takes what is wrong with a row, and says what stands in the row's place."""

    def __init__(self, policy: BadRowPolicy | None = None) -> None:
        """`refuse` collects them for `require_none`, `skip` makes them failures; None raises at the first."""
        self._policy = policy
        self.count = 0
        self._kinds: Counter[str] = Counter()
        self._first: list[str] = []

    def instead(self, row_id: str, where: str, reason: str) -> Iterator[Row]:
        """The row with a refusal, or nothing. Raises SourceError where no more are taken."""
        told = f"{where}: {reason}" if where else reason
        if NO_CHARACTERS in reason and _IN_TEXT.search(where):
            told += "; --encoding says what the file is in, such as cp1252"
        if self._policy is None:
            raise SourceError(told)
        self.count += 1
        kind = kind_of(reason)
        self._kinds[kind if kind in self._kinds or len(self._kinds) < MOST_KINDS else "of other kinds"] += 1
        if self._policy == "skip":
            message = _ended(told).encode("utf-8", "backslashreplace").decode()
            refusal = Failure(code=FailureCode.INVALID_JOB, message=message)
            yield Row(id=row_id, name=None, image=None, where=where, refusal=refusal)
            return
        if len(self._first) < MOST_LISTED:
            self._first.append(told)
        if self.count >= MOST_BAD:
            self.require_none()

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on those that became failures, if any did."""
        if not self.count:
            return ()
        rows = counted(
            self.count, "row cannot be asked and is a failure", "rows cannot be asked and are failures"
        )
        return (f"{rows}: {self._counted()}.",)

    def _counted(self) -> str:
        return "; ".join(f"{count} × {kind}" for kind, count in self._kinds.most_common())

    def require_none(self) -> None:
        """Raises SourceError that lists the first rows and counts all by kind."""
        if not self.count or self._policy == "skip":
            return
        if self.count == 1:
            told = _ended(self._first[0])
            raise SourceError(f"{told} ({_SKIP.format(them='a failure', their='this row')}.)")
        at_least = "at least " if self.count >= MOST_BAD else ""
        listed = "\n".join(f"  {_cut(one)}" for one in self._first)
        more = f"\n  … and {self.count - len(self._first)} more" if self.count > len(self._first) else ""
        raise SourceError(
            f"{at_least}{counted(self.count, 'row')} cannot be asked: {self._counted()}.\n{listed}{more}\n"
            f"Nothing was sent. Mend them, or {_SKIP.format(them='failures', their='them')}."
        )


def kind_of(reason: str) -> str:
    """The reason without what differs from row to row."""
    if reason.startswith("Row "):
        reason = reason.partition(": ")[2]
    kind = reason.partition(":")[0] if reason.startswith("not ") else reason.partition(";")[0]
    return _cut(_NUMBER.sub("N", _QUOTED.sub('"…"', kind)).strip().removesuffix("."))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
