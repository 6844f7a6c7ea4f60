"""`python -m model_prep`, and the process that `captionmill` converts in."""

from model_prep.command import main

if __name__ == "__main__":
    main()
