"""What is told of each image as it is made ready: numbers with units; it does not know who counts them."""

from typing import Protocol


class ImageObserver(Protocol):
    """Told of every image in the thread that asks for its features; calls must be quick and raise nothing."""

    def decoded(self, seconds: float) -> None:
        """An image file was made an RGB image in `seconds`."""
        ...

    def encoded(self, seconds: float) -> None:
        """The vision model computed an image's features in `seconds`, the wait for its turn not counted."""
        ...

    def served(self, *, kept: bool) -> None:
        """An image's features are there: `kept` from before, or encoded now."""
        ...
