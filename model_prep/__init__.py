"""Turns a Hugging Face LLaVA-NeXT checkpoint into a model folder that a worker runs."""
