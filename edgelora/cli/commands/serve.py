"""`edgelora serve`: start the HTTP server and print where it listens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_option, context_option, machine_options
from edgelora.cli.support.output import hint, note
from edgelora.cli.support.overrides import MachineOptions
from edgelora.core.log_format import FORMATS, LEVELS, LogFormat, LogLevel, LogOptions, logged
from edgelora.server.http.options import DEFAULT_HOST, DEFAULT_PORT

if TYPE_CHECKING:
    from edgelora.runtime.service import Service


@click.command(short_help="Serve an OpenAI-style API on localhost.")
@click.option(
    "--host",
    metavar="HOST",
    default=DEFAULT_HOST,
    show_default=True,
    help="The address to listen on. Any other than localhost requires a key.",
)
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="The port to listen on; 0 picks a free one.",
)
@click.option("--api-key", metavar="KEY", help="Require this key from clients.  [default: EDGELORA_API_KEY]")
@click.option(
    "--allow-origin",
    "allow_origins",
    metavar="ORIGIN",
    multiple=True,
    help="Allow web pages of ORIGIN (https://example.org, or `desktop` for app shells). May be given several times.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="Another host name that clients use for this machine. May be given several times.",
)
@click.option(
    "--allow-keyless",
    "keyless",
    is_flag=True,
    help="Allow programs on this machine without a key, even if keys exist.",
)
@click.option(
    "--requests-per-minute",
    metavar="N",
    type=click.IntRange(1, 10**9),
    help="The number of requests that all programs together may send in a minute.",
)
@click.option(
    "--tokens-per-minute",
    metavar="N",
    type=click.IntRange(1, 10**9),
    help="The number of prompt and answer tokens that all programs together may use in a minute.",
)
@click.option(
    "--pin",
    "pins",
    metavar="NAME",
    multiple=True,
    shell_complete=adapter_names,
    help="Load this adapter at the start and keep it in memory. May be given several times.  [default: EDGELORA_PIN]",
)
@click.option(
    "--queue-timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="How long a request may wait before it starts.",
)
@click.option(
    "--deadline",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long a request may take in total.  [default: no limit]",
)
@click.option(
    "--adapter-root",
    "adapter_roots",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Let clients load adapters below DIR by path, as vLLM does. May be given several times.",
)
@click.option(
    "--engine",
    type=click.Choice(["child", "in-process"]),
    default="child",
    show_default=True,
    help="Compute in a child process that is restarted if it crashes, or in the server's own process.",
)
@click.option("--access-log", is_flag=True, help="Log a line for each request, without its content.")
@click.option(
    "--log-format", type=click.Choice(FORMATS), default="text", show_default=True, help="The format of log lines."
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="warning",
    show_default=True,
    help="The lowest level to log.",
)
@base_option
@context_option
@machine_options
@click.pass_obj
def serve(
    app: App,
    host: str,
    port: int,
    api_key: str | None,
    allow_origins: tuple[str, ...],
    allow_hosts: tuple[str, ...],
    keyless: bool,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    pins: tuple[str, ...],
    queue_timeout: float,
    deadline: float | None,
    adapter_roots: tuple[Path, ...],
    engine: str,
    access_log: bool,
    log_format: LogFormat,
    log_level: LogLevel,
    base: str | None,
    context: int | None,
    machine: MachineOptions,
) -> None:
    """Serve the base and its adapters as an OpenAI-style API, until Ctrl-C.

    Every installed adapter is a model; clients change only their base URL. Other users of this machine can see a key on
    the command line. Use EDGELORA_API_KEY instead, or give each program a key of its own with `edgelora keys add`.
    """
    from edgelora.cli.commands.run import check_adapter
    from edgelora.cli.support.progress import progress_bars
    from edgelora.core.descriptors import raise_limit
    from edgelora.server.http.options import ServerOptions
    from edgelora.server.http.sockets import bind, close_all
    from edgelora.server.http.timeouts import RequestTimeouts
    from edgelora.server.run import run
    from edgelora.server.telemetry.instances import present
    from edgelora.store.keys.management_token import ensure_token

    settings = app.settings(context=context, machine=machine)
    options = ServerOptions(
        host=host,
        port=port,
        api_key=api_key or settings.api_key,
        allow_hosts=allow_hosts,
        allow_origins=allow_origins,
        access_log=access_log,
        adapter_roots=adapter_roots,
        secrets=settings.directories.config,
        keyless=keyless,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        timeouts=RequestTimeouts(queue_timeout, deadline),
    )
    with ExitStack() as held:
        held.enter_context(logged(LogOptions(log_format, log_level)))
        raise_limit()  # before the engine's process starts, which inherits the limit
        close_all(bind(options))  # a port in use is reported before the base is loaded
        ensure_token(settings.directories.config)
        with progress_bars() as bars:
            service = (app.supervised if engine == "child" else app.service)(settings, base=base, progress=bars)
        held.enter_context(service)
        threading.Thread(target=service.registry.library.store.tidy, name="edgelora-gc", daemon=True).start()
        to_pin = tuple(dict.fromkeys(pins or settings.pins))
        later = None
        if service.health().state == "ready":
            pin_all(service, to_pin)
        else:
            for name in to_pin:
                check_adapter(service.library, name)
            later = partial(prepare, service, to_pin)

        def ready(urls: list[str]) -> None:
            held.enter_context(present(settings.directories.state, urls[0]))
            announce(service, urls, options.host)

        run(service, options, on_ready=ready, meanwhile=later)
        hint("Stopped.")


def prepare(service: Service, pins: Sequence[str]) -> None:
    """Wait for the base and load the pins while the server listens. Raises if one of them cannot be loaded."""
    from edgelora.cli.support.progress import progress_bars

    with progress_bars() as bars:
        service.wait_ready(bars)
    pin_all(service, pins)
    hint("The base is loaded.")


def pin_all(service: Service, pins: Sequence[str]) -> None:
    for name in pins:
        service.pin(name)


def announce(service: Service, urls: list[str], host: str) -> None:
    """Print the address, the installed adapters and the setup."""
    adapters = [card.id for card in service.models() if card.parent is not None]
    count = {0: "no adapters", 1: "1 adapter"}.get(len(adapters), f"{len(adapters)} adapters")
    shown = f": {', '.join(adapters[:8])}{' ...' if len(adapters) > 8 else ''}" if adapters else ""
    note(f"Serving {service.base.name} and {count}{shown}")
    if pinned := [card.id for card in service.models() if card.pinned]:
        note(f"  pinned: {', '.join(pinned)}")
    note(f"  OPENAI_BASE_URL={_friendly(urls[0], host)}/v1")
    hint(f"  Try it in a browser: {_friendly(urls[0], host)}/")
    if service.setup is not None:
        hint(f"  {service.setup}")
    if service.health().state != "ready":
        hint("  The base is loading; until then, requests are answered with 503 and Retry-After.")
    hint("Press Ctrl-C to stop.")


def _friendly(url: str, host: str) -> str:
    """Return the URL with `localhost` if that was asked for, since it reaches both IPv4 and IPv6."""
    return url.replace("127.0.0.1", host) if host == DEFAULT_HOST else url
