"""Entry point: the group of commands, and what happens when one fails."""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import traceback
from types import FrameType

import click

import crossgram
from crossgram_cli.shared import INTERRUPTED, debug_option

__all__ = ["cli", "main"]

_COMMANDS = (
    "demo",
    "extract",
    "ingest",
    "synth",
    "inspect",
    "verify",
    "plan",
    "bench",
    "fit",
    "accumulate",
    "moments",
    "solve",
    "heads",
    "compare",
    "curve",
    "apply",
    "evaluate",
    "atlas",
    "report",
)
_FAILED, _WRONG_INPUT = 1, 2


class _LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"crossgram_cli.commands.{cmd_name}")
        command: click.Command = module.command
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(crossgram.__version__, prog_name="crossgram")
@debug_option
def cli() -> None:
    """Exact linear maps between the embedding spaces of neural networks.

    Embeddings of the same images by two networks are streamed, and the least-squares map
    from one space to the other is solved from their second moments.

    \b
    Try it:       crossgram demo
    Your data:    crossgram ingest a.npy a.zarr
                  crossgram ingest b.npy b.zarr
                  crossgram fit a.zarr b.zarr -o a-to-b.safetensors
    Completion:   eval "$(_CROSSGRAM_COMPLETE=bash_source crossgram)"   (or zsh_source; fish_source)
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    # of chunks that are written side by side more than one may fail; it is told once, below
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    context: dict[str, bool] = {}
    try:
        status = cli.main(args=arguments, standalone_mode=False, obj=context)
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted: stopped; unfinished outputs were removed.", err=True)
        status = INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        status = _FAILED
    except crossgram.InputError as error:
        status = _report(error, _WRONG_INPUT, context)
    except (crossgram.CrossgramError, OSError, MemoryError) as error:
        status = _report(error, _FAILED, context)
    sys.exit(status if isinstance(status, int) else 0)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _report(error: BaseException, status: int, context: dict[str, bool]) -> int:
    if context.get("debug"):
        traceback.print_exception(error)
    click.echo(f"Error: {error}" if str(error) else f"Error: {type(error).__name__}", err=True)
    return status
