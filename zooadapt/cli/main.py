"""The command line: all commands of `zooadapt`. `jobs/adapt_zoo.py` is `zooadapt adapt`."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from threading import RLock
from typing import NoReturn

import click
from tqdm import tqdm

from zooadapt import __version__
from zooadapt.cli import bands, cache, environment, jobs, reading, upkeep
from zooadapt.cli.common import OK, STOPPED, USAGE
from zooadapt.errors import UsageError, ZooadaptError, one_line, redact
from zooadapt.job.options import Config, run_options
from zooadapt.report.text import painted


class _InOrder(click.Group):
    """A group of commands that lists them in the order in which they were added."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(cls=_InOrder, context_settings=_HELP)
@click.version_option(__version__)
def zooadapt() -> None:
    """Adapt pretrained image models to any number of channels, and use mirrors of the results.

    \b
    zooadapt pull resnet50.a1_in1k --chans 4       adapt one model, without a mirror
    zooadapt ls 'resnet*' --mirror s3://bucket/m   see what a mirror has
    zooadapt adapt --chans 1,4,8,25                make a mirror

    To complete commands, models and presets in bash (or zsh, fish), add this to your shell's
    start-up file:

    \b
    eval "$(_ZOOADAPT_COMPLETE=bash_source zooadapt)"
    """


@click.command(context_settings=_HELP)
@run_options
def adapt(config: Config) -> int:
    """Adapt a zoo's pretrained models to other channels. Give --chans, --bands or both.

    \b
    zooadapt adapt --chans 1,4,8,25 --models 'resnet*,vit_*' --dest s3://bucket/mirror
    zooadapt adapt --bands sentinel2-l2a --zoo torchvision --dry-run
    """
    click.echo(f"mirror: {redact(config.dest)}")
    from zooadapt.job import dry_run, run  # not for --help; importing these takes a second

    return dry_run.dry_run(config) if config.dry_run else run.adapt(config)


for _command in (
    *reading.COMMANDS,
    *bands.COMMANDS,
    *cache.COMMANDS,
    adapt,
    *jobs.COMMANDS,
    *upkeep.COMMANDS,
    *environment.COMMANDS,
):
    zooadapt.add_command(_command)


def main(arguments: Sequence[str] | None = None, command: click.Command = zooadapt) -> int:
    """Run a command and return its exit code. Every error is printed as one line on stderr."""
    try:
        result = command.main(args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else OK
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        return _say(error.format_message(), USAGE)
    except UsageError as error:
        return _say(str(error), USAGE)
    except ZooadaptError as error:
        return _say(str(error), STOPPED)
    except (KeyboardInterrupt, click.Abort):
        return _say("stopped; run the same command again to resume", STOPPED)
    except ModuleNotFoundError as error:
        return _say(_lacking(error), USAGE)
    except Exception as error:
        return _say(f"stopped by an unexpected {type(error).__name__}: {one_line(error)}", STOPPED)


def script(command: click.Command = zooadapt) -> NoReturn:
    """Run a command and end the process at once, without Python's and Ray's own clean-up.

    What must be cleaned up was cleaned up by then. So nothing that goes wrong in Ray's threads as
    they end can change the exit code.
    """
    tqdm.set_lock(RLock())  # its own one has a semaphore, which Python 3.14 would call leaked
    code = main(command=command)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # such as a pipe whose reader has gone
            stream.flush()
    os._exit(code)


def _lacking(error: ModuleNotFoundError) -> str:
    name = (error.name or "").partition(".")[0]
    if name in ("fcntl", "resource"):  # which Windows lacks
        return "this command needs Linux; ls, show, pull, status and create_model work anywhere"
    extra = "load" if name in ("torch", "timm", "safetensors") else "run"
    return f"this command needs {name}, which isn't installed: pip install 'zooadapt[{extra}]'"


def _say(message: str, code: int) -> int:
    said = redact(" ".join(message.split()))
    click.echo(f"{painted('zooadapt:', 'red', sys.stderr)} {said}", err=True)
    return code
