"""Turns a Hugging Face LLaVA checkpoint into a model folder that a worker runs."""
