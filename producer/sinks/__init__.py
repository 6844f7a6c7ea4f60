"""Writes answered rows in the forms people use; knows nothing of queues, workers or how a run goes on."""
