"""Keeps encoded images within a budget of bytes and encodes each once at a time; knows no image, no model."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, Protocol, TypeVar

from worker.errors import fulfil


class Encoded(Protocol):
    """What an image was encoded to, such as an array."""

    @property
    def nbytes(self) -> int: ...
    def setflags(self, *, write: bool) -> None: ...


EncodedT = TypeVar("EncodedT", bound=Encoded)


class FeatureCache(Generic[EncodedT]):
    """The features used last, up to `max_bytes` of them. Any thread may call it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # Guards the three fields below it.
        self._lock = Lock()
        self._kept: OrderedDict[bytes, EncodedT] = OrderedDict()
        self._kept_bytes = 0
        self._coming: dict[bytes, Future[EncodedT]] = {}

    def get(self, key: bytes, encode: Callable[[], EncodedT], *, share: bool = True) -> EncodedT:
        """The features under `key`, read-only: kept ones, or those that `encode` returns.

        Threads that ask for one key at once share a call of `encode`. Its exception is raised to all of them
        and not kept. A thread that does not `share` waits for no other's call.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            coming = self._coming.get(key)
            encode_here = coming is None
            if coming is None:
                coming = self._coming[key] = Future()
        if encode_here:
            fulfil(coming, lambda: self._encoded(key, encode))
            with self._lock:
                del self._coming[key]
        elif not share:
            features = encode()
            features.setflags(write=False)
            return features
        return coming.result()

    def _encoded(self, key: bytes, encode: Callable[[], EncodedT]) -> EncodedT:
        features = encode()
        features.setflags(write=False)
        with self._lock:
            self._keep(key, features)
        return features

    def _keep(self, key: bytes, features: EncodedT) -> None:
        """Keep features and drop those not used for longest; features larger than the budget are not kept."""
        if features.nbytes > self._max_bytes:
            return
        self._kept[key] = features
        self._kept_bytes += features.nbytes
        while self._kept_bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.nbytes
