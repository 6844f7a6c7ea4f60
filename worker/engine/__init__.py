"""Generation from embeddings to token ids; knows nothing of images, text or Celery."""
