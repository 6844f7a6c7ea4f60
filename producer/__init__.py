"""Submits runs of image questions to the queue and collects their answers to disk."""
