"""Collects rows that cannot be asked, for one refusal or as failures; knows no form of source."""

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
"""Number of bad rows after which the source is refused without reading on."""
LONGEST_REASON: Final = 300
"""Number of characters of a row's reason in the list."""
NO_CHARACTERS: Final = "bytes that are no characters"
"""contract.base's words for text that is not UTF-8."""
_IN_TEXT: Final = re.compile(r", (?:line|entry) \d+$")
_QUOTED: Final = re.compile(r'"[^"]*"')
_NUMBER: Final = re.compile(r"\d+")
_SKIP: Final = "--bad-rows skip makes {them} of {their} and asks the others"


class BadRows:
    """Takes rows that cannot be asked, and gives what replaces them."""

    def __init__(self, policy: BadRowPolicy | None = None) -> None:
        """`refuse` collects rows for `require_none`, `skip` makes them failures, None raises at the first."""
        self._policy = policy
        self.count = 0
        self._kinds: Counter[str] = Counter()
        self._first: list[str] = []

    def instead(self, row_id: str, where: str, reason: str) -> Iterator[Row]:
        """The row with a refusal, or nothing. Raises SourceError if the policy allows no such row."""
        sentence = f"{where}: {reason}" if where else reason
        if NO_CHARACTERS in reason and _IN_TEXT.search(where):
            sentence += "; --encoding says what the file is in, such as cp1252"
        if self._policy is None:
            raise SourceError(sentence)
        self.count += 1
        kind = kind_of(reason)
        self._kinds[kind if kind in self._kinds or len(self._kinds) < MOST_KINDS else "of other kinds"] += 1
        if self._policy == "skip":
            message = _ended(sentence).encode("utf-8", "backslashreplace").decode()
            refusal = Failure(code=FailureCode.INVALID_JOB, message=message)
            yield Row(id=row_id, name=None, image=None, where=where, refusal=refusal)
            return
        if len(self._first) < MOST_LISTED:
            self._first.append(sentence)
        if self.count >= MOST_BAD:
            self.require_none()

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence about rows that became failures, if there are any."""
        if not self.count:
            return ()
        rows = counted(
            self.count, "row cannot be asked and is a failure", "rows cannot be asked and are failures"
        )
        return (f"{rows}: {self._counted()}.",)

    def _counted(self) -> str:
        return "; ".join(f"{count} × {kind}" for kind, count in self._kinds.most_common())

    def require_none(self) -> None:
        """Raises a SourceError that lists the first rows and counts all by kind, if there are any."""
        if not self.count or self._policy == "skip":
            return
        if self.count == 1:
            sentence = _ended(self._first[0])
            raise SourceError(f"{sentence} ({_SKIP.format(them='a failure', their='this row')}.)")
        at_least = "at least " if self.count >= MOST_BAD else ""
        listed = "\n".join(f"  {_cut(one)}" for one in self._first)
        more = f"\n  … and {self.count - len(self._first)} more" if self.count > len(self._first) else ""
        raise SourceError(
            f"{at_least}{counted(self.count, 'row')} cannot be asked: {self._counted()}.\n{listed}{more}\n"
            f"Nothing was sent. Mend them, or {_SKIP.format(them='failures', their='them')}."
        )


def kind_of(reason: str) -> str:
    """The reason without the parts that differ from row to row."""
    if reason.startswith("Row "):
        reason = reason.partition(": ")[2]
    kind = reason.partition(":")[0] if reason.startswith("not ") else reason.partition(";")[0]
    return _cut(_NUMBER.sub("N", _QUOTED.sub('"…"', kind)).strip().removesuffix("."))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
