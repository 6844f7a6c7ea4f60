"""The small LLaVA-NeXT that ships with the repository: its scenes, its training and the demo command."""
