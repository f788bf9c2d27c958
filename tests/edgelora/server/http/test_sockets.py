"""Listening: loopback by default, never elsewhere without a key, and a clear word when a port cannot be had."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.core.errors import Busy, UsageError
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.sockets import bind, close_all, is_loopback, urls
from edgelora.store.keys.store import KeyStore


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody else listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        yield other.getsockname()[1]


def test_port_zero_reports_the_real_port() -> None:
    """Any free port is taken, and the URLs name it."""
    bound = bind(ServerOptions(host="127.0.0.1", port=0))
    try:
        port = bound[0].getsockname()[1]
        assert port > 0 and urls(bound) == [f"http://127.0.0.1:{port}"]
    finally:
        close_all(bound)


def test_localhost_is_one_port_on_every_loopback_address() -> None:
    """Clients that look localhost up as ::1 and as 127.0.0.1 reach the same server."""
    bound = bind(ServerOptions(port=0))
    try:
        assert len({listening.getsockname()[1] for listening in bound}) == 1
        assert [url.rpartition(":")[0] for url in urls(bound)] == ["http://127.0.0.1", "http://[::1]"][: len(bound)]
    finally:
        close_all(bound)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_busy_port_says_what_to_do(host: str, taken: int) -> None:
    """A taken port is Busy with code port_in_use, and names the option that helps."""
    with pytest.raises(Busy) as caught:
        bind(ServerOptions(host=host, port=taken))
    assert caught.value.code == "port_in_use" and str(taken) in caught.value.what and "--port" in caught.value.remedy


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.com", ""])
def test_other_hosts_need_a_key(host: str) -> None:
    """Without a key nothing is opened to other machines, whatever the host is called."""
    with pytest.raises(UsageError) as caught:
        bind(ServerOptions(host=host, port=0))
    assert caught.value.code == "api_key_required"


def test_other_hosts_with_a_key() -> None:
    """With a key the server may listen elsewhere."""
    bound = bind(ServerOptions(host="0.0.0.0", port=0, api_key="k"))
    close_all(bound)
    assert len(bound) == 1


@pytest.mark.parametrize("host", ["203.0.113.7", "no such host"])
def test_an_address_of_another_machine(host: str) -> None:
    """A host that is not this machine's is a usage error, not a traceback."""
    with pytest.raises(UsageError) as caught:
        bind(ServerOptions(host=host, port=0, api_key="k"))
    assert caught.value.code == "bad_host"


def test_what_is_loopback() -> None:
    """Only what cannot be reached from elsewhere counts as loopback."""
    assert all(map(is_loopback, ["localhost", "LOCALHOST", "127.0.0.1", "127.8.0.1", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "localhost.evil.com", "", "10.0.0.1", "127.0.0.1.nip.io"]))


def test_off_loopback_named_keys_are_enough(tmp_path: Path) -> None:
    """Named keys suffice off loopback, without a shared key; `keyless` is refused there."""
    options = ServerOptions(host="0.0.0.0", port=0, secrets=tmp_path)
    with pytest.raises(UsageError, match="edgelora keys add"):
        bind(options)
    KeyStore(tmp_path).add("a")
    close_all(bind(options))
    for keyed in (options, replace(options, api_key="k")):
        with pytest.raises(UsageError) as caught:
            bind(replace(keyed, keyless=True))
        assert caught.value.code == "keyless_off_loopback"


def test_replies_are_sent_at_once() -> None:
    """A connection that is taken has Nagle's algorithm off: the rest of a reply waits for no ACK of its beginning."""

    async def taken(listening: socket.socket) -> int:
        option: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def look(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            option.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(look, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            result = await option
            writer.close()
            return result

    bound = bind(ServerOptions(port=0))
    try:
        assert all(asyncio.run(taken(listening)) for listening in bound)
    finally:
        close_all(bound)
