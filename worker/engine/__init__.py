"""Generates token ids from embeddings; knows nothing of images, text or Celery."""
