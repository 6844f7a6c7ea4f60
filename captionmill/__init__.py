"""The `captionmill` command line; it may import every other package that is installed."""
