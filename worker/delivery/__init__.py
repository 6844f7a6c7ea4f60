"""Messages in, records out: Celery's task, attempts, side queues, results; knows no image and no model."""
