"""A TCP proxy in front of a PostgreSQL server's socket that cuts, delays and trickles the server's answers."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["close", "reset", "delay", "trickle", "silence"]

_Link = tuple[asyncio.StreamWriter, asyncio.StreamWriter]
_Way = Callable[[bytes], AsyncIterator[bytes]]

_CHUNK_BYTES = 65_536
_TRICKLE_PAUSE_S = 0.001


@dataclass(frozen=True)
class Fault:
    """What happens to the server's answers once some of their bytes have passed.

    Attributes
    ----------
    kind : {"close", "reset", "delay", "trickle", "silence"}
        ``close`` and ``reset`` end every connection once, by FIN or by RST. ``delay`` holds the answers back once;
        ``trickle`` sends a few bytes at a time. ``silence`` sends nothing more, and leaves the connections open.
    after_bytes : int
        How many bytes pass before that, over all connections.
    delay_s : float
    trickle_bytes : int
        How many bytes pass each millisecond.
    """

    kind: FaultKind
    after_bytes: int
    delay_s: float = 0.5
    trickle_bytes: int = 1024


class Proxy:
    """Listens on a free port of 127.0.0.1, and passes each client on to a server's Unix socket.

    Parameters
    ----------
    server : str
        The socket's path.

    Attributes
    ----------
    port : int
    passed : int
        How many bytes of answers were passed on.
    struck : bool
        Whether the last fault has held back or cut an answer.
    """

    def __init__(self, server: str) -> None:
        self.port = self.passed = 0
        self.struck = False
        self._server = server
        self._fault: Fault | None = None
        self._strikes_at = 0
        self._links: set[_Link] = set()
        listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)))
        self._thread.start()
        listening.wait()

    def inject(self, fault: Fault) -> None:
        """Let a fault strike, in connections that are open and to come."""

        def arm() -> None:
            self._fault, self._strikes_at = fault, self.passed + fault.after_bytes
            self.struck = False
            self._mended.clear()

        self._call(arm)

    def mend(self) -> None:
        """Take the fault back; what it held back passes."""

        def disarm() -> None:
            self._fault = None
            self._mended.set()

        self._call(disarm)

    def close(self) -> None:
        """Cut every connection, and listen no longer."""
        self._call(self._closed.set)
        self._thread.join()

    def _call(self, change: Callable[[], None]) -> None:
        """Make a change in the proxy's own thread, which alone knows the connections."""
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (change(), done.set()))
        done.wait()

    async def _serve(self, listening: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._closed, self._mended = asyncio.Event(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        async with server:
            await self._closed.wait()
            self._mended.set()
            self._cut(reset=False)
        while self._links:
            await asyncio.sleep(0)

    async def _connected(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._server)
        link = (to_client, to_server)
        self._links.add(link)
        await asyncio.gather(
            self._pass_on(from_client, to_server, link, _unchanged),
            self._pass_on(from_server, to_client, link, self._pieces),
        )
        self._links.discard(link)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, by: _Way) -> None:
        """Pass on what is read until either side ends; then end both."""
        with suppress(ConnectionError):
            while chunk := await reader.read(_CHUNK_BYTES):
                async for piece in by(chunk):
                    writer.write(piece)
                    await writer.drain()
        for end in link:
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()

    async def _pieces(self, chunk: bytes) -> AsyncIterator[bytes]:
        """The pieces of an answer, as the fault lets them pass."""
        fault = self._fault
        clean = len(chunk) if fault is None else min(len(chunk), max(0, self._strikes_at - self.passed))
        self.passed += len(chunk)
        yield chunk[:clean]
        rest = chunk[clean:]
        if fault is None or not rest:
            return
        self.struck = True
        if fault.kind in ("close", "reset", "delay"):
            self._fault = None  # only once, so that what is tried again finds a way
        if fault.kind in ("close", "reset"):
            self._cut(reset=fault.kind == "reset")
        elif fault.kind == "trickle":
            for start in range(0, len(rest), fault.trickle_bytes):
                yield rest[start : start + fault.trickle_bytes]
                await asyncio.sleep(_TRICKLE_PAUSE_S)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._mended.wait(), fault.delay_s if fault.kind == "delay" else None)
            yield rest

    def _cut(self, *, reset: bool) -> None:
        for to_client, to_server in self._links:
            if reset:
                # Closing then discards what was not sent, and sends RST (socket(7), SO_LINGER).
                raw = to_client.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            to_client.transport.abort()
            to_server.transport.abort()


async def _unchanged(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk
