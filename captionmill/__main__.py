"""The `captionmill` command, and `python -m captionmill`; it loads the rest, which takes a moment."""

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
