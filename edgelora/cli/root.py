"""`edgelora` itself: the verbs, the global options, the exit codes in the help."""

from __future__ import annotations

import click

from edgelora.cli.app import App
from edgelora.cli.group import Root

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
    "run": "edgelora.cli.run:run",
    "ls": "edgelora.cli.adapters:ls",
    "add": "edgelora.cli.adapters:add",
    "pull": "edgelora.cli.pull:pull",
    "train": "edgelora.cli.train:train",
    "show": "edgelora.cli.adapters:show",
    "rm": "edgelora.cli.adapters:rm",
    "alias": "edgelora.cli.versions:alias",
    "rollback": "edgelora.cli.versions:rollback",
    "warm": "edgelora.cli.warm:warm",
    "release": "edgelora.cli.release:release",
    "convert": "edgelora.cli.convert:convert",
    "verify": "edgelora.cli.verify:verify",
    "export": "edgelora.cli.export:export",
    "combine": "edgelora.cli.combine:combine",
    "merge": "edgelora.cli.merge:merge",
    "base": "edgelora.cli.base:base",
    "prefix": "edgelora.cli.prefix:prefix",
    "serve": "edgelora.cli.serve:serve",
    "ps": "edgelora.cli.ps:ps",
    "keys": "edgelora.cli.keys:keys",
    "tune": "edgelora.cli.tune:tune",
    "doctor": "edgelora.cli.doctor:doctor",
}


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from edgelora import __version__

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
