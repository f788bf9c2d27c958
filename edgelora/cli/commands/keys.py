"""`edgelora keys`: API keys with what each may do, and the management token. Owns no file format."""

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


@click.group(cls=Verbs, short_help="Give programs keys of their own.")
def keys() -> None:
    """API keys for `edgelora serve`, each with what it may use and how much, and the token for managing.

    As soon as there is a key, the server asks every program for one (but see `serve --allow-keyless`). A server that
    runs knows of every change at once.
    """


def key_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys for the shell's completion; none where they cannot be read, because a shell is no place for an error."""
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
    help="Adapters it may use: names, or patterns with * and ?. May be given several times.  [default: all]",
)
@click.option("--no-adapters", is_flag=True, help="It may use no adapter, only the base.")
@click.option("--no-base", is_flag=True, help="It may not use the base alone.")
@click.option("--management", is_flag=True, help="It may also change what is installed.")
@click.option("--requests-per-minute", metavar="N", type=PER_MINUTE, help="Requests it may send in a minute.")
@click.option("--tokens-per-minute", metavar="N", type=PER_MINUTE, help="Tokens, of prompts and answers, in a minute.")
@click.option("--expires", metavar="WHEN", help="When it ends: 90m, 12h, 30d, or a date such as 2030-01-31 (UTC).")
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
    """Make a key named NAME, and print it. It is kept nowhere: this is the only time that it can be seen.

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
        hint("From now on every program needs a key; `edgelora serve --allow-keyless` lets those of this machine in.")


@keys.command(short_help="List the keys.")
@json_option
@click.pass_obj
def ls(app: App, as_json: bool) -> None:
    """List the keys, with what each may do. The keys themselves are kept nowhere."""
    found = _store(app).list()
    if as_json:
        emit_json([summary(key) for key in found])
    elif found:
        _table(found)
    else:
        note("There are no keys. `edgelora keys add NAME` makes one.")


@keys.command(short_help="Remove keys.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=key_names)
@click.pass_obj
def rm(app: App, names: tuple[str, ...]) -> None:
    """Remove keys: whoever has one is shut out at once."""
    _store(app).remove(names)
    for name in dict.fromkeys(names):
        note(f"Removed {name}.")


@keys.command(short_help="Show or replace the management token.")
@click.option("--rotate", is_flag=True, help="Make a new token; the old one is worth nothing from then on.")
@click.pass_obj
def token(app: App, rotate: bool) -> None:
    """Print the token of this installation. It opens what changes the installed adapters over HTTP, and all the rest.

    Programs of this user can read it from the file `token` in EDGELORA_HOME, or in the platform's configuration folder.
    """
    from edgelora.store.keys.management_token import ensure_token, rotate_token

    folder = app.settings().directories.config
    emit(rotate_token(folder) if rotate else ensure_token(folder))


def parse_expiry(text: str, *, now: float) -> float:
    """Unix seconds of a time said as `90m`, `12h` or `30d` from now, or as an ISO date or time, UTC by default."""
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
    """Return a key for programs, without its digest. Times in ISO 8601."""
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


def _table(found: tuple[ApiKey, ...]) -> None:
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
        for key in found
    ]
    header = ("NAME", "ADAPTERS", "BASE", "MANAGES", "REQUESTS/MIN", "TOKENS/MIN", "MADE", "EXPIRES")
    emit_table(header, rows, right=frozenset({4, 5}))


def _limit(per_minute: int | None) -> str:
    return "-" if per_minute is None else str(per_minute)
