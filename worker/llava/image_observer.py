"""Events while images are encoded, as numbers with units; knows not who counts them."""

from typing import Protocol


class ImageObserver(Protocol):
    """Called in the thread that asks for an image's features. Calls must be quick and raise nothing."""

    def decoded(self, seconds: float) -> None:
        """An image file was decoded to RGB in `seconds`."""
        ...

    def encoded(self, seconds: float) -> None:
        """The vision model computed an image's features in `seconds`, without the wait for its turn."""
        ...

    def served(self, *, kept: bool) -> None:
        """A job was given an image's features: `kept` ones, or ones encoded now."""
        ...
