"""From what a request carries to who it is from: the key of the options, the token, the named keys. No HTTP."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

from edgelora.server.auth.caller import ANYONE, OWNER, Caller
from edgelora.server.http.endpoint import Door
from edgelora.server.http.errors import Forbidden, Unauthorized
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.origins import presented
from edgelora.server.http.sockets import is_loopback
from edgelora.store.keys.api_key import digest
from edgelora.store.keys.key_ring import KeyRing


class Credentials:
    """Asked on the server's loop only."""

    def __init__(self, options: ServerOptions, *, clock: Callable[[], float] = time.time) -> None:
        """`clock`: Unix seconds, for expiries. Raises StorageError where token or keys cannot be read."""
        self._shared = None if options.api_key is None else digest(options.api_key.encode())
        self._ring = None if options.secrets is None else KeyRing(options.secrets)
        self._always = self._shared is not None or not is_loopback(options.host)
        self._keyless = options.keyless
        self._clock = clock

    def admit(self, door: Door, *, authorization: str | None, x_api_key: str | None) -> Caller:
        """Who comes to this door. Raises Unauthorized, and Forbidden for a key that is good elsewhere.

        At a SIGNED one it is anyone: its route looks at the address.
        """
        if door in (Door.OPEN, Door.SIGNED):
            return ANYONE
        found = self._identify([digest(secret) for secret in presented(authorization, x_api_key)])
        if door is Door.TOKEN:
            return _manager(found)
        if found is None and self._asks_for_key():
            raise Unauthorized(
                "invalid_api_key",
                "The request carries no API key, or one that this server does not know any more.",
                "Send it as 'Authorization: Bearer KEY'.",
            )
        return found or ANYONE

    def _asks_for_key(self) -> bool:
        return self._always or (not self._keyless and self._ring is not None and self._ring.in_use)

    def _identify(self, given: list[str]) -> Caller | None:
        shared = self._shared is not None and any(hmac.compare_digest(one, self._shared) for one in given)
        token = self._ring is not None and self._ring.is_token(given)
        key = None if self._ring is None else self._ring.find(given, self._clock())
        if token:
            return OWNER
        return Caller.of(key) if key is not None else ANYONE if shared else None


def _manager(found: Caller | None) -> Caller:
    if found is None or found is ANYONE:
        raise Unauthorized(
            "management_token_required",
            "This changes what is installed, or sees files: it needs the management token.",
            "Send it as the API key; `edgelora keys token` shows it.",
        )
    if not found.management:
        raise Forbidden(
            "management_not_allowed",
            f"The key {found.name!r} may not change what is installed.",
            "Use the management token, or a key made with `edgelora keys add --management`.",
        )
    return found
