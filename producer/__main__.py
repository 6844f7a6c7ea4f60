"""`python -m producer` is the `captionmill` command."""

from producer.cli import main

if __name__ == "__main__":
    main()
