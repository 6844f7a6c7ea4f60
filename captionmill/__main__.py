"""The entry of `captionmill` and `python -m captionmill`; it imports the rest when it runs."""

import signal
import sys

INTERRUPTED = 128 + signal.SIGINT


def main() -> None:
    """The console script."""
    try:
        from captionmill.cli import main as command
    except KeyboardInterrupt:
        print("captionmill: Stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    command()


if __name__ == "__main__":
    main()
