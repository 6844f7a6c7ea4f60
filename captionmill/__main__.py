"""`python -m captionmill` is the `captionmill` command."""

from captionmill.cli import main

main()
