"""Finds stop texts among new tokens; knows how tokens become text and nothing of generation."""

from collections.abc import Callable, Sequence


class StopTexts:
    """Texts that end an answer, as transformers' stop strings do: wherever a token completes one.

    `decode` makes text of token ids, special tokens included; every token is at least one byte of it.
    """

    def __init__(self, texts: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self._texts = tuple(texts)
        self._decode = decode
        # No text spans more tokens than it has bytes. One more, as the first of a window may lose its space.
        self._window_tokens = 1 + max(len(text.encode()) for text in texts)

    def __call__(self, token_ids: Sequence[int]) -> bool:
        """Whether the last of these new tokens completes a stop text; asked after each token."""
        window = self._decode(token_ids[-self._window_tokens :])
        return any(text in window for text in self._texts)

    def cut(self, text: str) -> str:
        """The text before the first stop text."""
        places = [text.find(stop) for stop in self._texts]
        return text[: min((place for place in places if place >= 0), default=len(text))]

    def settled(self, text: str) -> str:
        """The part of cut()'s text that no further text changes: without an end that begins a stop text."""
        cut = self.cut(text)
        if len(cut) < len(text):
            return cut
        return text[: min(map(self._settled_length, [text] * len(self._texts), self._texts))]

    def _settled_length(self, text: str, stop: str) -> int:
        longest = min(len(text), len(stop) - 1)
        held_back = (n for n in range(longest, 0, -1) if text.endswith(stop[:n]))
        return len(text) - next(held_back, 0)
