"""A peer of the bench that computes nothing, in a process of its own as the real ones; knows no model."""

from bench.peers.protocol import Counts, Setup, Task, serve


class FakePeer:
    """Counts one prompt token per question. Options: `extra` tokens too many; `dies_at`, its last task."""

    def __init__(self, setup: Setup) -> None:
        self._extra: int = setup.options.get("extra", 0)
        self._dies_at: int | None = setup.options.get("dies_at")
        self._tasks = 0

    def answer(self, task: Task) -> Counts:
        print("a library that talks on stdout")
        self._tasks += 1
        if self._tasks == self._dies_at:
            raise RuntimeError("it is over")
        return Counts(len(task.asks), self._extra + sum(ask.new_tokens for ask in task.asks))


if __name__ == "__main__":
    serve(FakePeer)
