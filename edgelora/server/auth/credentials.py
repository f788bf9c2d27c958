"""Identifying the caller by the key of the options, the management token, or a named key. No HTTP."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable

from edgelora.server.auth.caller import ANYONE, OWNER, Caller
from edgelora.server.http.endpoint import Access
from edgelora.server.http.errors import Forbidden, Unauthorized
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.origins import presented
from edgelora.server.http.sockets import is_loopback
from edgelora.store.keys.api_key import digest
from edgelora.store.keys.key_ring import KeyRing


class Credentials:
    """The keys that the server knows. Not thread-safe: only for the server's event loop."""

    def __init__(self, options: ServerOptions, *, clock: Callable[[], float] = time.time) -> None:
        """`clock`: Unix seconds, for expiries. Raises StorageError where token or keys cannot be read."""
        self._shared = None if options.api_key is None else digest(options.api_key.encode())
        self._ring = None if options.secrets is None else KeyRing(options.secrets)
        self._always = self._shared is not None or not is_loopback(options.host)
        self._keyless = options.keyless
        self._clock = clock

    def admit(self, access: Access, *, authorization: str | None, x_api_key: str | None) -> Caller:
        """Return the caller. Raises Unauthorized, or Forbidden where the key is valid and does not suffice.

        With SIGNED access the caller is ANYONE: the endpoint's handler checks the signature.
        """
        if access in (Access.OPEN, Access.SIGNED):
            return ANYONE
        caller = self._identify([digest(secret) for secret in presented(authorization, x_api_key)])
        if access is Access.MANAGEMENT:
            return _manager(caller)
        if caller is None and self._requires_key():
            raise Unauthorized(
                "invalid_api_key",
                "The request has no API key, or one that is not valid.",
                "Send it as 'Authorization: Bearer KEY'.",
            )
        return _unrestricted(caller or ANYONE) if access is Access.FULL_KEY else caller or ANYONE

    def _requires_key(self) -> bool:
        return self._always or (not self._keyless and self._ring is not None and self._ring.in_use)

    def _identify(self, given: list[str]) -> Caller | None:
        shared = self._shared is not None and any(hmac.compare_digest(key, self._shared) for key in given)
        token = self._ring is not None and self._ring.is_token(given)
        key = None if self._ring is None else self._ring.find(given, self._clock())
        if token:
            return OWNER
        return Caller.of(key) if key is not None else ANYONE if shared else None


def _unrestricted(caller: Caller) -> Caller:
    if not caller.sees_all:
        raise Forbidden(
            "whole_view_not_allowed",
            f"This describes every adapter, and the key {caller.name!r} may use only some.",
            "GET /v1/models lists what it may use.",
        )
    return caller


def _manager(caller: Caller | None) -> Caller:
    if caller is None or caller is ANYONE:
        raise Unauthorized(
            "management_token_required",
            "This call changes what is installed, or reads files: it needs the management token.",
            "Send it as the API key; `edgelora keys token` shows it.",
        )
    if not caller.management:
        raise Forbidden(
            "management_not_allowed",
            f"The key {caller.name!r} may not change what is installed.",
            "Use the management token, or a key made with `edgelora keys add --management`.",
        )
    return caller
