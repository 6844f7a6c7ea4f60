"""Shows the server's workers, queues, runs and memory again and again; changes nothing."""

import time
from collections.abc import Callable
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from contract.counting import counted
from producer.progress import duration
from producer.run_console import event, signals_as_flag
from producer.server_snapshot import Rates, ServerSnapshot, look, rates

TIMEOUT_S: Final = 5.0
NAP_S: Final = 0.1
"""Seconds between two checks for a signal."""
NEARLY_FULL: Final = 0.8


def connect_to_look(url: str) -> redis.Redis:
    """A connection, not opened yet, whose calls fail at once: an outage is shown while it lasts."""
    connection: redis.Redis = redis.Redis.from_url(
        url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
    return connection


def top_once(connection: redis.Redis, console: Console, *, as_json: bool) -> None:
    """Show one snapshot, without rates. Raises redis.RedisError."""
    snapshot = look(connection)
    if as_json:
        event("top", _fields(snapshot, None))
    else:
        console.print(drawn(snapshot, None))


def top(connection: redis.Redis, console: Console, every_s: float, *, as_json: bool) -> None:
    """Show a snapshot every `every_s` seconds until a signal comes; goes on after an outage."""
    if as_json:
        _repeat(connection, every_s, _print_json)
        return
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:

        def show(snapshot: ServerSnapshot | None, change: Rates | None, trouble: str | None) -> None:
            parts: list[RenderableType] = [Text(trouble, style="bold red")] if trouble else []
            if snapshot is not None:
                parts.append(drawn(snapshot, change))
            live.update(Group(*parts), refresh=True)

        _repeat(connection, every_s, show)


Show = Callable[[ServerSnapshot | None, Rates | None, str | None], None]
"""Called with the latest snapshot, the changes since the one before, and why there is no newer one."""


def _repeat(connection: redis.Redis, every_s: float, show: Show) -> None:
    latest: ServerSnapshot | None = None
    with signals_as_flag() as stopped:
        while not stopped:
            try:
                now = look(connection)
            except redis.RedisError as error:
                show(latest, None, f"Redis does not answer ({error}); looking again every {every_s:g} s.")
            else:
                show(now, None if latest is None else rates(latest, now), None)
                latest = now
            until = time.monotonic() + every_s
            while not stopped and time.monotonic() < until:
                time.sleep(NAP_S)


def _print_json(snapshot: ServerSnapshot | None, change: Rates | None, trouble: str | None) -> None:
    if trouble is not None:
        event("away", {"time": time.time(), "message": trouble})
    elif snapshot is not None:
        event("top", _fields(snapshot, change))


def _fields(snapshot: ServerSnapshot, change: Rates | None) -> dict[str, Any]:
    return snapshot.model_dump(mode="json") | {"rates": change and change.model_dump(mode="json")}


def drawn(snapshot: ServerSnapshot, change: Rates | None) -> RenderableType:
    """A headline with what needs attention, and tables of queues, workers and runs."""
    return Group(_headline(snapshot, change), _queues(snapshot, change), _workers(snapshot), _runs(snapshot))


def _headline(snapshot: ServerSnapshot, change: Rates | None) -> Text:
    live = snapshot.live_workers()
    line = Text(
        f"{counted(len(live), 'worker')}, {counted(sum(one.slots for one in live), 'slot')}", style="bold"
    )
    if change is not None:
        line.append(f" · {change.records:.1f} jobs/s")
    nearly_full = snapshot.memory_bytes > NEARLY_FULL * snapshot.memory_limit_bytes > 0
    line.append(f" · {_memory(snapshot)}", style="red" if nearly_full else "")
    silent = len(snapshot.workers) - len(live)
    for count, one, many in (
        (silent, "silent worker", None),
        (snapshot.unreadable_workers, "worker of another version", "workers of another version"),
        (snapshot.queued["suspect"], "suspect", None),
        (snapshot.dead_letters, "dead letter", None),
    ):
        if count:
            line.append(f" · {counted(count, one, many)}", style="red")
    if not live and any(snapshot.queued.values()):
        line.append(" · no worker for the queued jobs", style="bold red")
    return line


def _memory(snapshot: ServerSnapshot) -> str:
    used = f"{snapshot.memory_bytes / 2**20:.0f} MiB"
    if not snapshot.memory_limit_bytes:
        return f"memory {used}, no limit"
    share = snapshot.memory_bytes / snapshot.memory_limit_bytes
    return f"memory {used} of {snapshot.memory_limit_bytes / 2**20:.0f} MiB ({share:.0%})"


def _queues(snapshot: ServerSnapshot, change: Rates | None) -> Table:
    table = Table("queue", "messages", "change/s")
    for name, length in snapshot.queued.items():
        table.add_row(name, str(length), "" if change is None else f"{change.queued[name]:+.1f}")
    table.add_row("taken, not acknowledged", str(snapshot.unacked), "")
    return table


def _workers(snapshot: ServerSnapshot) -> Table:
    table = Table("worker", "model", "device", "slots", "up", "heard of")
    for one in snapshot.workers:
        heard = f"{one.age_s:.0f} s ago" if one.alive else f"silent for {duration(one.age_s)}"
        style = "" if one.alive else "red"
        cells = (one.worker, one.model, one.device, str(one.slots), duration(one.up_s), heard)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _runs(snapshot: ServerSnapshot) -> Table:
    caption = (
        None if snapshot.all_runs else "The server holds more keys than are looked at; runs are missing."
    )
    table = Table("run", "records", "not fetched", caption=caption)
    for run, records in sorted(snapshot.runs.items()):
        table.add_row(Text(run), str(records.written), str(records.waiting))
    return table
