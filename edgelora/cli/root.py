"""The root command: its verbs, the global options and the exit codes in the help."""

from __future__ import annotations

import click

from edgelora.cli.group import Root, Verb
from edgelora.cli.support.app import App

EPILOG = """\b
Exit codes:
  0    success
  1    an unexpected error, or a failed check of `doctor`
  2    wrong usage, or a prompt too long for the context
  3    an unknown name
  4    the network is needed but not allowed or not available
  5    the adapter is corrupt, not supported, or for another base
  6    the base is missing, corrupt, or not a Llama
  7    no space, no permission, or a disk error
  8    busy: a name or the port is in use, or the queue is full
  9    the engine failed
  130  interrupted (Ctrl-C)

EDGELORA_HOME puts all of edgelora's files into one folder. EDGELORA_DEBUG=1 shows tracebacks."""

COMMANDS = "edgelora.cli.commands"
VERBS = {
    "Use": {
        "run": Verb(f"{COMMANDS}.run:run", "Ask once, or chat."),
    },
    "Adapters": {
        "ls": Verb(f"{COMMANDS}.adapters:ls", "List the installed adapters."),
        "add": Verb(f"{COMMANDS}.adapters:add", "Install an adapter you trained."),
        "pull": Verb(f"{COMMANDS}.pull:pull", "Download and install an adapter."),
        "train": Verb(f"{COMMANDS}.train:train", "Train an adapter on examples."),
        "show": Verb(f"{COMMANDS}.adapters:show", "Show the details of one adapter."),
        "rm": Verb(f"{COMMANDS}.adapters:rm", "Remove adapters."),
        "alias": Verb(f"{COMMANDS}.versions:alias", "Give a version of an adapter a name."),
        "rollback": Verb(f"{COMMANDS}.versions:rollback", "Go back to an older version of an adapter."),
        "warm": Verb(f"{COMMANDS}.warm:warm", "Prepare adapters for their first use."),
        "convert": Verb(f"{COMMANDS}.convert:convert", "Convert an adapter to GGUF, MLX or PEFT."),
        "verify": Verb(f"{COMMANDS}.verify:verify", "Prove that conversions are exact."),
        "export": Verb(f"{COMMANDS}.export:export", "Write an installed adapter to files."),
        "combine": Verb(f"{COMMANDS}.combine:combine", "Combine adapters into one."),
        "merge": Verb(f"{COMMANDS}.merge:merge", "Merge adapters into a base."),
    },
    "Base": {
        "base": Verb(f"{COMMANDS}.base:base", "List, add, pull and choose bases."),
    },
    "Serve": {
        "serve": Verb(f"{COMMANDS}.serve:serve", "Serve an OpenAI-style API on localhost."),
        "ps": Verb(f"{COMMANDS}.ps:ps", "Show what running servers hold."),
        "keys": Verb(f"{COMMANDS}.keys:keys", "Manage API keys and the management token."),
        "prefix": Verb(f"{COMMANDS}.prefix:prefix", "Keep computed system prompts on disk."),
    },
    "Maintain": {
        "doctor": Verb(f"{COMMANDS}.doctor:doctor", "Check that everything works here."),
        "tune": Verb(f"{COMMANDS}.tune:tune", "Measure the fastest settings on this machine."),
        "gc": Verb(f"{COMMANDS}.gc:gc", "Delete files that no adapter needs."),
        "release": Verb(f"{COMMANDS}.release:release", "Release an adapter from quarantine."),
    },
}
"""The verbs by group, in the order of the help. Showing the help imports none of them."""


def _show_version(ctx: click.Context, _parameter: click.Parameter, requested: bool) -> None:
    if requested and not ctx.resilient_parsing:
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
    """Run a Llama on this machine with many LoRA adapters, each chosen by name.

    \b
    edgelora run --adapter medical-faq "What is hypertension?"
    edgelora run                  start a chat; /adapter NAME switches adapters
    edgelora add my-adapter.zip   install an adapter you trained
    edgelora serve                serve an OpenAI-style API on localhost
    """
    import logging

    app.offline = app.offline or offline
    if logging.lastResort is not None:  # used where no handler is configured: warnings and errors to stderr
        logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))
