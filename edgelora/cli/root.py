"""`edgelora` itself: the verbs, the global options, the exit codes in the help."""

from __future__ import annotations

import click

from edgelora.cli.group import Root, Verb
from edgelora.cli.support.app import App

EPILOG = """\b
Exit codes:
  0    done
  1    something unexpected, or a check of `doctor` failed
  2    wrong use, or a prompt too long for the context
  3    an unknown name
  4    the network is needed, and was forbidden or is not there
  5    the adapter: corrupt, not supported, or made for another base
  6    the base: missing, corrupt, or not a Llama
  7    no space, no permission, a disk error
  8    busy: a name or the port is taken, the queue is full
  9    the engine below failed
  130  interrupted (Ctrl-C)

EDGELORA_HOME moves everything edgelora keeps to one folder. EDGELORA_DEBUG=1 shows tracebacks."""

COMMANDS = "edgelora.cli.commands"
VERBS = {
    "Use": {
        "run": Verb(f"{COMMANDS}.run:run", "Ask once, or chat."),
        "serve": Verb(f"{COMMANDS}.serve:serve", "Serve an OpenAI-style API on localhost."),
    },
    "Adapters": {
        "ls": Verb(f"{COMMANDS}.adapters:ls", "List the installed adapters."),
        "add": Verb(f"{COMMANDS}.adapters:add", "Install an adapter you trained."),
        "pull": Verb(f"{COMMANDS}.pull:pull", "Download and install an adapter."),
        "train": Verb(f"{COMMANDS}.train:train", "Train an adapter on examples."),
        "show": Verb(f"{COMMANDS}.adapters:show", "Show the details of one adapter."),
        "rm": Verb(f"{COMMANDS}.adapters:rm", "Remove adapters."),
        "alias": Verb(f"{COMMANDS}.versions:alias", "Name a version of an adapter."),
        "rollback": Verb(f"{COMMANDS}.versions:rollback", "Go back to an older version of an adapter."),
        "convert": Verb(f"{COMMANDS}.convert:convert", "Convert an adapter to GGUF, MLX or PEFT."),
        "verify": Verb(f"{COMMANDS}.verify:verify", "Prove that conversions are exact."),
        "export": Verb(f"{COMMANDS}.export:export", "Write an installed adapter to files."),
        "combine": Verb(f"{COMMANDS}.combine:combine", "Combine adapters into one."),
        "merge": Verb(f"{COMMANDS}.merge:merge", "Merge adapters into a base."),
    },
    "Base models": {
        "base": Verb(f"{COMMANDS}.base:base", "List, add, pull and choose bases."),
    },
    "Running servers": {
        "ps": Verb(f"{COMMANDS}.ps:ps", "Show what running servers hold."),
        "keys": Verb(f"{COMMANDS}.keys:keys", "Give programs keys of their own."),
        "warm": Verb(f"{COMMANDS}.warm:warm", "Make adapters ready for their first use."),
        "prefix": Verb(f"{COMMANDS}.prefix:prefix", "Keep system prompts computed on disk."),
        "release": Verb(f"{COMMANDS}.release:release", "Let an adapter that crashed the engine try again."),
    },
    "Maintenance": {
        "doctor": Verb(f"{COMMANDS}.doctor:doctor", "Check that everything works here."),
        "tune": Verb(f"{COMMANDS}.tune:tune", "Measure what is fastest on this machine."),
        "gc": Verb(f"{COMMANDS}.gc:gc", "Delete files that no adapter needs."),
    },
}
"""The verbs by group, in the order of the help. The help imports none of them."""


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from edgelora.core.version import __version__

        click.echo(f"edgelora {__version__}")
        ctx.exit()


@click.group(
    name="edgelora",
    cls=Root,
    verbs=VERBS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--offline", is_flag=True, help="Never use the network.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_obj
def cli(app: App, offline: bool) -> None:
    """One Llama on this machine, many LoRA adapters, each one a name away.

    \b
    edgelora run --adapter medical-faq "What is hypertension?"
    edgelora run                  chat; /adapter NAME switches in the middle of it
    edgelora add my-adapter.zip   install an adapter you trained
    edgelora serve                the same, as an OpenAI-style API on localhost
    """
    import logging

    app.offline = app.offline or offline
    if logging.lastResort is not None:  # the handler of who configures none: to stderr, warnings and up
        logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))
