"""The command line: arguments become a library call, and its result becomes files. Nothing is computed here.

Exit status: 0 done; 2 bad input, configuration or usage, said in one clear line each; 1 anything else;
130 interrupted. Heavy packages are imported inside the commands, so that `crowdfit --help` answers at once.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from crowdfit import console
from crowdfit.commands.average import average
from crowdfit.commands.calibrate import calibrate
from crowdfit.commands.colours import align, cmd, regions
from crowdfit.commands.destripe import destripe
from crowdfit.commands.fit import demo, fit
from crowdfit.commands.homogenize import homogenize
from crowdfit.commands.photometry import photometry
from crowdfit.commands.show import columns, flags, show_config
from crowdfit.commands.simulate import simulate
from crowdfit.errors import CrowdfitError
from crowdfit.job import DONE, FAILED, INTERRUPTED, Interrupted, refuse

# the class of all usage errors; its module is private to typer and has moved between releases
UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="crowdfit",
    help="Photometry of dense star fields: sky, every star and the PSF fitted together.",
    epilog="Start with `crowdfit demo`, or `crowdfit fit image.fits -o results`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments without the program name; those of the process when not given.
    """
    given = None if arguments is None else list(arguments)
    try:
        status = app(args=given, prog_name="crowdfit", standalone_mode=False) or DONE
    except UsageError as error:
        message = error.format_message().removesuffix(".")
        return refuse(f"{message} (see {error.ctx.command_path} --help)" if message else "")
    except CrowdfitError as error:
        return refuse(str(error))
    except Interrupted as end:
        console.say(str(end))
        return INTERRUPTED
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # the reader of our pipe has gone; without this, Python would fail once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (OSError, MemoryError) as error:
        console.say(f"error: {str(error) or 'out of memory'}")
        return FAILED
    if status == INTERRUPTED:  # typer turns Ctrl-C into this and says nothing
        console.say("interrupted")
    return status


def _print_version(wanted: bool) -> None:
    if wanted:
        from crowdfit import __version__  # noqa: PLC0415

        typer.echo(f"crowdfit {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Photometry of dense star fields: sky, every star and the PSF fitted together."""


COMMANDS: dict[str, Callable[..., int]] = {
    "fit": fit,
    "demo": demo,
    "simulate": simulate,
    "config": show_config,
    "photometry": photometry,
    "average": average,
    "calibrate": calibrate,
    "cmd": cmd,
    "align": align,
    "regions": regions,
    "destripe": destripe,
    "homogenize": homogenize,
    "columns": columns,
    "flags": flags,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
