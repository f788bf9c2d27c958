"""`edgelora` itself: the verbs, the global options, the exit codes in the help."""

from __future__ import annotations

import click

from edgelora.cli.group import Root
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

VERBS = {
    "run": "edgelora.cli.commands.run:run",
    "ls": "edgelora.cli.commands.adapters:ls",
    "add": "edgelora.cli.commands.adapters:add",
    "pull": "edgelora.cli.commands.pull:pull",
    "train": "edgelora.cli.commands.train:train",
    "show": "edgelora.cli.commands.adapters:show",
    "rm": "edgelora.cli.commands.adapters:rm",
    "alias": "edgelora.cli.commands.versions:alias",
    "rollback": "edgelora.cli.commands.versions:rollback",
    "warm": "edgelora.cli.commands.warm:warm",
    "release": "edgelora.cli.commands.release:release",
    "convert": "edgelora.cli.commands.convert:convert",
    "verify": "edgelora.cli.commands.verify:verify",
    "export": "edgelora.cli.commands.export:export",
    "combine": "edgelora.cli.commands.combine:combine",
    "merge": "edgelora.cli.commands.merge:merge",
    "base": "edgelora.cli.commands.base:base",
    "prefix": "edgelora.cli.commands.prefix:prefix",
    "serve": "edgelora.cli.commands.serve:serve",
    "ps": "edgelora.cli.commands.ps:ps",
    "keys": "edgelora.cli.commands.keys:keys",
    "gc": "edgelora.cli.commands.gc:gc",
    "tune": "edgelora.cli.commands.tune:tune",
    "doctor": "edgelora.cli.commands.doctor:doctor",
}


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from edgelora.core.version import __version__

        click.echo(f"edgelora {__version__}")
        ctx.exit()


@click.group(
    name="edgelora",
    cls=Root,
    lazy=VERBS,
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
