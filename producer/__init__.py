"""Submits runs of image questions to the queue and collects their answers to disk."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Imports the client when it is first used: only the client needs Celery."""
    if name == "Client":
        from producer.client import Client

        return Client
    raise AttributeError(name)
