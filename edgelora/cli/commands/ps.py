"""`edgelora ps`: show what the servers on this machine hold in memory, as they report it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import json_option
from edgelora.cli.support.output import emit, emit_json, emit_table, hint, human_age, note

if TYPE_CHECKING:
    from edgelora.core.errors import EdgeloraError

_Status = dict[str, Any]

COLUMNS = ("ADAPTER", "VERSION", "SIZE", "LEASES", "PINNED", "LAST USE", "HITS", "QUEUE", "TOKENS/S")
NUMBERS = frozenset({2, 3, 6, 7, 8})


@click.command(short_help="Show what running servers hold.")
@click.option("--url", metavar="URL", help="Ask the server at URL instead of those running on this machine.")
@json_option
@click.pass_obj
def ps(app: App, url: str | None, as_json: bool) -> None:
    """Show the running servers: adapters in memory and their uses, waiting requests, speed and memory.

    Servers of this user on this machine are found automatically and queried with the management token. A server given
    by --url is queried with EDGELORA_API_KEY.
    """
    from edgelora.core.errors import EdgeloraError
    from edgelora.server.telemetry.instances import running
    from edgelora.store.keys.management_token import read_token

    settings = app.settings()
    urls = [url] if url else [server.url for server in running(settings.directories.state)]
    # The token allows everything, so it is sent to this installation's own servers and never to a URL from outside.
    key = settings.api_key if url else read_token(settings.directories.config) or settings.api_key
    statuses: list[_Status] = []
    for address in urls:
        try:
            status = ask(address, key)
        except EdgeloraError as error:
            if url:
                raise
            status = {"error": {"code": error.code, "message": str(error)}}
        statuses.append({"url": address, **status})
    if as_json:
        emit_json(statuses)
        return
    for number, status in enumerate(statuses):
        if number:
            emit("")
        show(status)
    if not statuses:
        note("No server is running.")
        hint("Start one: edgelora serve")


def ask(url: str, key: str | None) -> _Status:
    """Return a server's status. Raises UsageError for a malformed URL or a refused key, and BackendError(no_answer) if
    there is no usable answer.
    """
    import json
    import urllib.error
    import urllib.request

    from edgelora.core.errors import UsageError

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy's localhost is another machine
    try:
        request = urllib.request.Request(f"{url.rstrip('/').removesuffix('/v1')}/v1/status", headers=headers)
        if request.type not in ("http", "https"):
            raise ValueError(request.type)
        with opener.open(request, timeout=10) as reply:
            value = json.load(reply)
    except urllib.error.HTTPError as error:
        raise _refused(url, error.code) from error
    except (OSError, json.JSONDecodeError) as error:
        raise _silent(url, str(getattr(error, "reason", error))) from error
    except ValueError as error:
        raise UsageError("bad_url", f"{url!r} is not a URL.", "Write one such as http://localhost:8321.") from error
    if not isinstance(value, dict) or value.get("object") != "edgelora.status":
        raise _silent(url, "it is not an edgelora server")
    return value


def show(status: _Status) -> None:
    """Print the status of a server."""
    from edgelora_models.storage import size_text

    if "error" in status:
        emit(f"{status['url']}: {status['error']['message']}")
        return
    base, requests, speed, adapters = status["base"], status["requests"], status["speed"], status["adapters"]
    setup = f" ({base['setup']})" if base["setup"] else ""
    began = human_age(status["uptime_seconds"]).replace(" ago", "")
    up = "just started" if began == "just now" else f"up {began}"
    emit(f"{status['url']}  {base['name']} on {base['backend']}{setup}; pid {status['pid']}, {up}")
    engine = status["engine"]
    if not status["ready"]:
        emit(f"not ready: {engine['why'] or engine['state']}")
    if engine["restarts"]:
        emit(f"the engine crashed and was restarted {_times(engine['restarts'])}")
    emit(
        f"{requests['running']} running, {requests['queued']} waiting, {speed['tokens_per_second']:.1f} tokens/s;"
        f" memory {_memory(status['memory'])}"
    )
    kv = status["kv"]
    if not kv["cells"]:
        return  # the base is not loaded yet, so there is nothing else
    emit(
        f"adapters {size_text(adapters['bytes'])} of {size_text(adapters['budget_bytes'])};"
        f" KV {kv['used'] + kv['warm']:,} of {kv['cells']:,} tokens, {kv['warm']:,} of them cached"
    )
    if adapters["data"]:
        emit_table(COLUMNS, [_row(adapter) for adapter in adapters["data"]], right=NUMBERS)
    else:
        emit("No adapter is in memory. Adapters are loaded on first use.")


def _row(adapter: dict[str, Any]) -> tuple[str, ...]:
    from edgelora_models.storage import size_text

    return (
        adapter["name"] if adapter["resident"] else f"{adapter['name']} (loading)",
        adapter["version"],
        size_text(adapter["bytes"]),
        str(adapter["leases"]),
        "yes" if adapter["pinned"] else "no",
        human_age(max(0.0, time.time() - adapter["last_used"])) if adapter["last_used"] else "never",
        str(adapter["requests"]),
        str(adapter["queued"]),
        f"{adapter['tokens_per_second']:.1f}",
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _memory(memory: dict[str, dict[str, int | None]]) -> str:
    from edgelora_models.storage import size_text

    def usage(name: str, process: dict[str, int | None]) -> str:
        peak = f", peak {size_text(process['peak_bytes'])}" if process["peak_bytes"] else ""
        return f"{'' if len(memory) == 1 else f'{name} '}{size_text(process['resident_bytes'] or 0)}{peak}"

    return "; ".join(usage(name, process) for name, process in memory.items())


def _refused(url: str, status: int) -> EdgeloraError:
    from edgelora.core.errors import UsageError

    if status == 401:
        message = f"The server at {url} requires a key, and refused the one that was sent, if any."
        return UsageError("invalid_api_key", message, "Set EDGELORA_API_KEY to one of its keys.")
    return _silent(url, f"it answered with status {status}")


def _silent(url: str, why: str) -> EdgeloraError:
    from edgelora.core.errors import BackendError

    return BackendError("no_answer", f"The server at {url} gave no usable answer: {why}.", "Check that it is running.")
