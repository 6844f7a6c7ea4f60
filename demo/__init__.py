"""The small LLaVA-NeXT that ships with the repository: samples, scenes, evaluation and training."""
