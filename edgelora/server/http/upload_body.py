"""Receiving bodies too large for memory: written to disk in a thread, within limits of size and time."""

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
"""Maximum seconds between two chunks of a body."""
TOTAL_SECONDS = 3600.0
"""Maximum seconds for a whole body."""
FORM_BYTES = 64 << 10
"""Maximum size of a form besides its file."""
BATCH_BYTES = 1 << 20
"""Bytes written at a time: a switch to a thread for each chunk from the socket would cost more than the writing."""
MAX_AT_ONCE = 8
"""Maximum number of uploads received at once; more wait, with their bodies unread."""
MAX_WAITING = 512


class UploadReceiver:
    """The uploads being received and those waiting to be. A server has one."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._waiting = 0

    @asynccontextmanager
    async def receiving(self, scope: Scope, receive: Receive, *, limit: int) -> AsyncIterator[IncomingUpload]:
        """Receive an upload of at most `limit` bytes. After the block it is deleted unless it was kept or held.

        The rest of a refused body is read for a moment, so that its client can read the reply. Raises Busy,
        BodyTooLarge, StorageError.
        """
        body = _Body(receive, limit)
        try:
            declared = Headers(scope=scope).get("content-length")
            if declared is not None and int(declared) > limit:
                raise _too_large(limit)
            async with self._slot():
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
    async def _slot(self) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise Busy("too_many_uploads", f"{MAX_WAITING} uploads are waiting already.", "Send fewer at a time.")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


class IncomingUpload:
    """An upload on its way to disk."""

    def __init__(self, body: _Body, incoming: Incoming) -> None:
        self._body = body
        self._held = False
        self.incoming = incoming

    def hold(self) -> Incoming:
        """Keep the upload's bytes after the block. The caller must close what this returns."""
        self._held = True
        return self.incoming

    def end(self) -> None:
        if not self._held:
            self.incoming.close()

    async def form(self, content_type: str) -> FormReader:
        """Receive a form with a file. Raises UsageError, BodyTooLarge, BodyTimeout, ClientGone, StorageError."""
        reader = FormReader(content_type)
        await self._write(reader.feed(chunk) async for chunk in self._body.chunks())
        reader.finish()
        return reader

    async def raw(self) -> str:
        """Receive a body that is the file itself. Returns the md5 of its bytes in hex. Raises as `form`."""
        digest = hashlib.md5(usedforsecurity=False)
        await self._write(self._body.chunks(), digest)
        return digest.hexdigest()

    async def _write(self, chunks: AsyncIterator[bytes], digest: hashlib._Hash | None = None) -> None:
        def write(data: bytes) -> None:
            self.incoming.write(data)
            if digest is not None:
                digest.update(data)

        batch = bytearray()
        async for chunk in chunks:
            batch += chunk
            if len(batch) >= BATCH_BYTES:
                await to_thread.run_sync(write, bytes(batch))
                batch.clear()
        await to_thread.run_sync(write, bytes(batch))


class _Body:
    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self.ended = False

    async def chunks(self) -> AsyncGenerator[bytes]:
        total = 0
        deadline = asyncio.get_running_loop().time() + TOTAL_SECONDS
        while not self.ended:
            try:
                async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + IDLE_SECONDS)):
                    message = await self._receive()
            except TimeoutError:
                problem = f"The body paused for {IDLE_SECONDS:g} s, or took longer than {TOTAL_SECONDS:g} s."
                raise BodyTimeout("body_timeout", problem, "Send it again.") from None
            if message["type"] == "http.disconnect":
                self.ended = True
                raise ClientGone
            self.ended = not message.get("more_body", False)
            chunk = message.get("body", b"")
            total += len(chunk)
            if total > self._limit:
                raise _too_large(self._limit)
            yield chunk


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge("body_too_large", f"The upload is larger than {limit} bytes.", "Send a smaller adapter.")
