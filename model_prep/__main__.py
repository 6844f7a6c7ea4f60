"""`python -m model_prep`, which `captionmill` also runs as a child process."""

from model_prep.command import main

if __name__ == "__main__":
    main()
