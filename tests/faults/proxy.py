"""A TCP proxy on the loopback whose connections break on demand; knows no protocol."""

import asyncio
import socket
import struct
import threading
from typing import Final

CHUNK_BYTES: Final = 65536
RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes a closed connection a reset one."""


class Proxy:
    """Passes on connections to `port`; its fields say how bad the network is. It has its own thread."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self.delay_s = 0.0
        """Before each piece is passed on, each way."""
        self.bytes_per_s: float | None = None
        self._refusing = False
        self._swallowed: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK_BYTES)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Every connection ends with a reset; new ones are passed on."""
        self._in_loop(self._reset)

    def cut(self) -> None:
        """Every connection ends, and new ones are refused until mend()."""
        self._refusing = True
        self.reset()

    def mend(self) -> None:
        self._refusing = False
        self.delay_s = 0.0
        self.bytes_per_s = None

    def swallow(self) -> None:
        """Connections of now stay open and pass nothing on, ever; new ones are passed on."""
        self._in_loop(lambda: self._swallowed.update(self._writers))

    def stop(self) -> None:
        self.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._passing:
            task.cancel()
        while self._writers:
            await asyncio.sleep(0.01)

    def _in_loop(self, act: object) -> None:
        done = threading.Event()

        def run() -> None:
            act()  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(run)
        done.wait()

    def _reset(self) -> None:
        for writer in self._writers:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        passing = [
            self._loop.create_task(self._pass(reader, far_writer)),
            self._loop.create_task(self._pass(far_reader, writer)),
        ]
        self._passing.update(passing)
        await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        for one in pair:
            one.transport.abort()
        await asyncio.wait(passing)
        self._passing.difference_update(passing)
        self._writers -= pair
        self._swallowed -= pair

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(CHUNK_BYTES):
                if writer in self._swallowed:
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_s:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        if writer in self._swallowed:
            await asyncio.Event().wait()
