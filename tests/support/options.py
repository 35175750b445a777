"""Options of a job, as its command line parses them."""

from dataclasses import replace

import click

from zooadapt.cli.main import main
from zooadapt.job.options import Config, run_options


def parse(*arguments: str) -> Config:
    """The config that a command line gives."""
    seen: list[Config] = []

    @click.command()
    @run_options
    def command(config: Config) -> int:
        seen.append(config)
        return 0

    code = main(arguments, command)
    if not seen:
        raise SystemExit(code)
    return seen[0]


def config(*arguments: str) -> Config:
    """The options of a job for 1 and 4 channels."""
    return parse("--chans", "1,4", *arguments)


def options(*arguments: str, zoo: str = "zoo") -> Config:
    """The options of a job that checks its sources."""
    return replace(config("--check-sources", *arguments), zoo=tuple(zoo.split(",")))
