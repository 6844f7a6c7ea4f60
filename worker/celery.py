"""Where `celery -A worker` looks for the app; it is made in worker/app.py."""

from worker.app import app

__all__ = ["app"]
