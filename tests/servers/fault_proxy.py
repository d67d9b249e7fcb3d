"""A wire that breaks on demand, between an app and its server: late, silent, or cut."""

import asyncio
import contextlib
import socket
import struct


class FaultProxy:
    """Passes bytes both ways on a port of its own, as well as it is told to.

    Args:
        port: Where the server listens, on 127.0.0.1.
    """

    def __init__(self, port):
        self.port = None
        self.delay = 0.0  # seconds that each piece of bytes is held up
        self._target = port
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers = set()
        self._tasks = set()
        self._server = None

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.reset()

    def black_hole(self):
        """Take everything from now on, connections too, and pass nothing on."""
        self._passing.clear()

    def heal(self):
        """Pass bytes again, at once; what was held up too."""
        self.delay = 0.0
        self._passing.set()

    def reset(self):
        """Cut every connection as a machine does that vanished and came back."""
        for writer in tuple(self._writers):
            sock = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def _meet(self, reader, writer):
        self._writers.add(writer)
        self._tasks.add(asyncio.current_task())
        try:
            await self._passing.wait()
            there = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(there[1])
            await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(asyncio.current_task())

    async def _pass(self, reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)
