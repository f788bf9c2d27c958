"""`edgelora ps`: what the servers on this machine hold in memory. Asks them; owns the wording of the answer."""

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
@click.option("--url", metavar="URL", help="Ask the server at URL instead of those that run on this machine.")
@json_option
@click.pass_obj
def ps(app: App, url: str | None, as_json: bool) -> None:
    """Show what running servers hold: adapters in memory, who uses them, what waits, how fast it goes.

    Servers that were started by this user on this machine are found by themselves, and asked with the installation's
    token. Another one gets EDGELORA_API_KEY.
    """
    from edgelora.core.errors import EdgeloraError
    from edgelora.server.telemetry.instances import running
    from edgelora.store.keys.management_token import read_token

    settings = app.settings()
    urls = [url] if url else [url_of_server.url for url_of_server in running(settings.directories.state)]
    # The token opens everything: it is for this installation's own servers, never for a URL that somebody gave.
    key = settings.api_key if url else read_token(settings.directories.config) or settings.api_key
    statuses: list[_Status] = []
    for url_of_server in urls:
        try:
            status = ask(url_of_server, key)
        except EdgeloraError as error:
            if url:
                raise
            status = {"error": {"code": error.code, "message": str(error)}}
        statuses.append({"url": url_of_server, **status})
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
    """Return a server's own account of itself. Raises UsageError (a URL that is none, a key it does not take), or
    BackendError(code no_answer).
    """
    import json
    import urllib.error
    import urllib.request

    from edgelora.core.errors import UsageError

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy's localhost is another one
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
    """Print one server, for people."""
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
        emit(f"the engine crashed and was started again {_times(engine['restarts'])}")
    emit(
        f"{requests['running']} running, {requests['queued']} waiting, {speed['tokens_per_second']:.1f} tokens/s;"
        f" memory {_memory(status['memory'])}"
    )
    kv = status["kv"]
    if not kv["cells"]:
        return  # the base is not there yet, and nothing else can be
    emit(
        f"adapters {size_text(adapters['bytes'])} of {size_text(adapters['budget_bytes'])};"
        f" KV {kv['used'] + kv['warm']:,} of {kv['cells']:,} tokens, {kv['warm']:,} of them warm"
    )
    if adapters["data"]:
        emit_table(COLUMNS, [_row(resident) for resident in adapters["data"]], right=NUMBERS)
    else:
        emit("No adapter is in memory: each is loaded at its first use.")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    from edgelora_models.storage import size_text

    return (
        one["name"] if one["resident"] else f"{one['name']} (loading)",
        one["version"],
        size_text(one["bytes"]),
        str(one["leases"]),
        "yes" if one["pinned"] else "no",
        human_age(max(0.0, time.time() - one["last_used"])) if one["last_used"] else "never",
        str(one["requests"]),
        str(one["queued"]),
        f"{one['tokens_per_second']:.1f}",
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _memory(memory: dict[str, dict[str, int | None]]) -> str:
    from edgelora_models.storage import size_text

    def told(name: str, one: dict[str, int | None]) -> str:
        peak = f", peak {size_text(one['peak_bytes'])}" if one["peak_bytes"] else ""
        return f"{'' if len(memory) == 1 else f'{name} '}{size_text(one['resident_bytes'] or 0)}{peak}"

    return "; ".join(told(name, one) for name, one in memory.items())


def _refused(url: str, status: int) -> EdgeloraError:
    from edgelora.core.errors import UsageError

    if status == 401:
        message = f"The server at {url} asks for a key, and got none or another one."
        return UsageError("invalid_api_key", message, "Set EDGELORA_API_KEY to one that it takes.")
    return _silent(url, f"it answered with status {status}")


def _silent(url: str, why: str) -> EdgeloraError:
    from edgelora.core.errors import BackendError

    return BackendError("no_answer", f"The server at {url} gave no answer that can be read: {why}.", "Does it run?")
