"""What an operator sees while a job runs: bars on a terminal, else a line for each model."""

import sys
from types import TracebackType

import click
from tqdm import tqdm

from zooadapt.types import ModelSummary


class Progress:
    """Shows tqdm bars on a terminal, and elsewhere one plain line for each model."""

    def __init__(self, models: int) -> None:
        self.models, self.ended = models, 0
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        quiet = not self.terminal
        self._models = tqdm(total=self.models, unit="model", desc="models", disable=quiet)
        self._bytes = tqdm(unit="B", unit_scale=True, desc="written", disable=quiet)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._models.close()
        self._bytes.close()

    def model_ended(self, summary: ModelSummary) -> None:
        """Count a model that has ended. On a terminal, only a model with failures gets a line."""
        self.ended += 1
        self._models.update()
        self._bytes.update(summary.bytes_written)
        line = f"[{self.ended}/{self.models}] {_model_line(summary)}"
        if not self.terminal:
            click.echo(line)
        elif summary.failures:
            self._models.write(line)


def _model_line(summary: ModelSummary) -> str:
    parts = []
    if summary.made:
        parts.append(f"{','.join(summary.made)} channels proved on {summary.checked_on}")
    if summary.failures:
        failure = summary.failures[0]
        parts.append(f"{failure.status} at {failure.stage}")
    return f"{summary.entry.name}: {'; '.join(parts)} ({sum(summary.seconds.values()):.1f} s)"
