"""`edgelora keys`: API keys with their permissions, and the management token."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from edgelora.cli.group import Verbs
from edgelora.cli.support.app import App
from edgelora.cli.support.options import json_option
from edgelora.cli.support.output import emit, emit_json, emit_table, hint, human_age, note

if TYPE_CHECKING:
    from edgelora.store.keys.api_key import ApiKey
    from edgelora.store.keys.store import KeyStore

PER_MINUTE = click.IntRange(1, 10**9)

_LASTING = re.compile(r"([1-9][0-9]{0,5})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}


@click.group(cls=Verbs, short_help="Manage API keys and the management token.")
def keys() -> None:
    """Manage the API keys of `edgelora serve`, with permissions and limits, and the management token.

    As soon as a key exists, the server requires one from every program (but see `serve --allow-keyless`). Changes
    take effect in a running server at once.
    """


def key_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the keys for the shell's completion; none if they cannot be read, since completion must not fail."""
    from edgelora.core.errors import EdgeloraError

    try:
        names = [key.name for key in _store(ctx.ensure_object(App)).list()]
    except EdgeloraError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@keys.command(short_help="Make a key.")
@click.argument("name", metavar="NAME")
@click.option(
    "-a",
    "--adapter",
    "adapters",
    metavar="PATTERN",
    multiple=True,
    help="An adapter it may use: a name, or a pattern with * and ?. May be given several times.  [default: all]",
)
@click.option("--no-adapters", is_flag=True, help="Allow no adapter, only the base.")
@click.option("--no-base", is_flag=True, help="Do not allow the base without an adapter.")
@click.option("--management", is_flag=True, help="Also allow changes to the installed adapters.")
@click.option("--requests-per-minute", metavar="N", type=PER_MINUTE, help="The number of requests allowed in a minute.")
@click.option(
    "--tokens-per-minute",
    metavar="N",
    type=PER_MINUTE,
    help="The number of tokens allowed in a minute.",
)
@click.option("--expires", metavar="WHEN", help="When it expires: 90m, 12h, 30d, or a date such as 2030-01-31 (UTC).")
@json_option
@click.pass_obj
def add(
    app: App,
    name: str,
    adapters: tuple[str, ...],
    no_adapters: bool,
    no_base: bool,
    management: bool,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    expires: str | None,
    as_json: bool,
) -> None:
    """Make a key named NAME and print it. Only its digest is stored, so the key cannot be shown again.

    \b
    edgelora keys add clinic-app --adapter 'medical-*' --no-base --requests-per-minute 60
    """
    from edgelora.core.errors import UsageError

    if no_adapters and (adapters or no_base):
        raise UsageError("nothing_permitted", "--no-adapters leaves the base alone.", "Leave the other option out.")
    store = _store(app)
    first = not store.list()
    key, secret = store.add(
        name,
        adapters=() if no_adapters else adapters or ("*",),
        base=not no_base,
        management=management,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        expires=None if expires is None else parse_expiry(expires, now=time.time()),
    )
    if as_json:
        emit_json({**summary(key), "key": secret})
        return
    emit(secret)
    note(f"Made the key {key.name!r}. It is not shown again.")
    if first:
        hint("Every program now needs a key; `edgelora serve --allow-keyless` exempts programs on this machine.")


@keys.command(short_help="List the keys.")
@json_option
@click.pass_obj
def ls(app: App, as_json: bool) -> None:
    """List the keys and their permissions. The keys themselves are not stored and cannot be shown."""
    listed = _store(app).list()
    if as_json:
        emit_json([summary(key) for key in listed])
    elif listed:
        _table(listed)
    else:
        note("There are no keys. `edgelora keys add NAME` makes one.")


@keys.command(short_help="Remove keys.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=key_names)
@click.pass_obj
def rm(app: App, names: tuple[str, ...]) -> None:
    """Remove keys. A running server refuses them at once."""
    _store(app).remove(names)
    for name in dict.fromkeys(names):
        note(f"Removed {name}.")


@keys.command(short_help="Show or replace the management token.")
@click.option("--rotate", is_flag=True, help="Replace the token; the old one stops working at once.")
@click.pass_obj
def token(app: App, rotate: bool) -> None:
    """Print the management token of this installation. It allows every request, including changes to adapters.

    Programs of this user can read it from the file `token` in EDGELORA_HOME, or in the platform's configuration folder.
    """
    from edgelora.store.keys.management_token import ensure_token, rotate_token

    folder = app.settings().directories.config
    emit(rotate_token(folder) if rotate else ensure_token(folder))


def parse_expiry(text: str, *, now: float) -> float:
    """Return the Unix time of `90m`, `12h` or `30d` from now, or of an ISO date or time, UTC by default."""
    from edgelora.core.errors import UsageError

    if lasting := _LASTING.fullmatch(text):
        return now + int(lasting[1]) * _SECONDS[lasting[2]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        message = f"{text!r} is not a time."
        raise UsageError("bad_time", message, "Write 90m, 12h, 30d, or a date such as 2030-01-31.") from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def summary(key: ApiKey) -> dict[str, Any]:
    """Return a key's permissions as JSON values, with times in ISO 8601 and without its digest."""
    return {
        "name": key.name,
        "adapters": list(key.adapters),
        "base": key.base,
        "management": key.management,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "created": _iso(key.created),
        "expires": None if key.expires is None else _iso(key.expires),
        "expired": key.expired(time.time()),
    }


def _store(app: App) -> KeyStore:
    from edgelora.store.keys.store import KeyStore

    return KeyStore(app.settings().directories.config)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _table(listed: tuple[ApiKey, ...]) -> None:
    now = time.time()
    rows = [
        (
            key.name,
            ", ".join(key.adapters) or "none",
            "yes" if key.base else "no",
            "yes" if key.management else "no",
            _limit(key.requests_per_minute),
            _limit(key.tokens_per_minute),
            human_age(now - key.created),
            "never" if key.expires is None else "expired" if key.expired(now) else _iso(key.expires)[:16],
        )
        for key in listed
    ]
    header = ("NAME", "ADAPTERS", "BASE", "MANAGES", "REQUESTS/MIN", "TOKENS/MIN", "MADE", "EXPIRES")
    emit_table(header, rows, right=frozenset({4, 5}))


def _limit(per_minute: int | None) -> str:
    return "-" if per_minute is None else str(per_minute)
