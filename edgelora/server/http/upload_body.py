"""Bodies too large for memory, on their way to the disk: within bounds of size and time, written off the loop."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from edgelora.core.errors import Busy, EdgeloraError
from edgelora.server.http.errors import BodyTimeout, BodyTooLarge, ClientGone
from edgelora.server.http.json_body import discard_body
from edgelora.server.http.multipart import FormReader
from edgelora.store.uploads import Incoming, Uploads

IDLE_SECONDS = 30.0
"""How long the next piece of a body may take."""
TOTAL_SECONDS = 3600.0
"""How long a body may take."""
FORM_BYTES = 64 << 10
"""What a form may have beside its file."""
BATCH_BYTES = 1 << 20
"""Written at a time: a hop to a thread for each piece from the socket would cost more than the writing."""
MAX_AT_ONCE = 8
"""Uploads being received; more wait, with their bodies unread."""
MAX_WAITING = 512


class UploadReceiver:
    """Who sends now, and who waits; one for the server."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._places = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting = 0

    @asynccontextmanager
    async def receiving(self, scope: Scope, receive: Receive, *, limit: int) -> AsyncIterator[IncomingUpload]:
        """An upload of at most `limit` bytes, gone again after the block but for what was kept or held.

        A refused body is read on for a moment, so that its sender gets to read why. Raises Busy, BodyTooLarge,
        StorageError.
        """
        body = _Body(receive, limit)
        try:
            declared = Headers(scope=scope).get("content-length")
            if declared is not None and int(declared) > limit:
                raise _too_large(limit)
            async with self._place():
                arrival = IncomingUpload(body, await to_thread.run_sync(self._uploads.begin))
                try:
                    yield arrival
                finally:
                    arrival.end()
        except EdgeloraError:
            if not body.ended:
                await discard_body(receive)
            raise

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise Busy("too_many_uploads", f"{MAX_WAITING} uploads wait already.", "Send fewer at a time.")
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()


class IncomingUpload:
    """One upload."""

    def __init__(self, body: _Body, incoming: Incoming) -> None:
        self._body = body
        self._held = False
        self.incoming = incoming

    def hold(self) -> Incoming:
        """Its bytes stay where they are after the block, until the caller closes it."""
        self._held = True
        return self.incoming

    def end(self) -> None:
        if not self._held:
            self.incoming.close()

    async def form(self, content_type: str) -> FormReader:
        """Take in a form with a file. Raises UsageError, BodyTooLarge, BodyTimeout, ClientGone, StorageError."""
        reader = FormReader(content_type)
        await self._write(reader.feed(piece) async for piece in self._body.pieces())
        reader.finish()
        return reader

    async def raw(self) -> str:
        """Take in a body that is the file. Returns the md5 hex of its bytes. Raises as `form`."""
        digest = hashlib.md5(usedforsecurity=False)
        await self._write(self._body.pieces(), digest)
        return digest.hexdigest()

    async def _write(self, pieces: AsyncIterator[bytes], digest: hashlib._Hash | None = None) -> None:
        def write(data: bytes) -> None:
            self.incoming.write(data)
            if digest is not None:
                digest.update(data)

        batch = bytearray()
        async for piece in pieces:
            batch += piece
            if len(batch) >= BATCH_BYTES:
                await to_thread.run_sync(write, bytes(batch))
                batch.clear()
        await to_thread.run_sync(write, bytes(batch))


class _Body:
    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self.ended = False

    async def pieces(self) -> AsyncGenerator[bytes]:
        total = 0
        deadline = asyncio.get_running_loop().time() + TOTAL_SECONDS
        while not self.ended:
            try:
                async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + IDLE_SECONDS)):
                    message = await self._receive()
            except TimeoutError:
                problem = f"The body stopped coming for {IDLE_SECONDS:g} s, or took over {TOTAL_SECONDS:g} s."
                raise BodyTimeout("body_timeout", problem, "Send it again.") from None
            if message["type"] == "http.disconnect":
                self.ended = True
                raise ClientGone
            self.ended = not message.get("more_body", False)
            piece = message.get("body", b"")
            total += len(piece)
            if total > self._limit:
                raise _too_large(self._limit)
            yield piece


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge("body_too_large", f"The upload is larger than {limit} bytes.", "Send a smaller adapter.")
