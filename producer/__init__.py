"""Submits runs of image questions to the queue and collects their answers to disk."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """The client brings Celery with it, which no other file of the package should have to load."""
    if name == "Client":
        from producer.client import Client

        return Client
    raise AttributeError(name)
