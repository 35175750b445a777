"""The options of a run: from the command line, else ``ZOOADAPT_*`` variables, else a YAML file."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import yaml

from zooadapt import __version__, bands
from zooadapt.errors import UsageError, redact
from zooadapt.targets import SCHEMES, Bands, Target
from zooadapt.types import Job
from zooadapt.urls import absolute

Command = TypeVar("Command", bound=Callable[..., Any])

_LISTS = ("chans", "zoo", "models", "exclude", "license")
_REPEATED = ("bands",)
_MOST_CHANS = 65_536
_FILE_ONLY = ("storage_options", "source_storage_options")


@dataclass(frozen=True)
class Config:
    """The resolved options of one run. The README explains each."""

    chans: tuple[int, ...]
    """Channel counts, distinct and ascending."""
    bands: tuple[Bands, ...]
    scheme: str | None
    """None: `repeat` for channel counts; for bands `rgb-only` where they and the model have red,
    green and blue, else `nearest`."""
    dest: str
    """The mirror's root, an absolute path or a URL."""
    zoo: tuple[str, ...]
    models: tuple[str, ...]
    exclude: tuple[str, ...]
    license: tuple[str, ...]
    source_root: str | None
    max_models: int | None
    dry_run: bool
    retry_failed: bool
    check_sources: bool
    keep_sources: bool = False
    max_hours: float | None = None
    """Hours after which no further model is begun; None: no limit."""
    cpus: int | None = None
    """CPUs that the cluster can grow to; None: those that it has."""
    gpus: int | None = None
    """GPUs that the cluster can grow to; None: those that it has."""
    node_memory: float | None = None
    """GB of memory of the largest node that the cluster can add; None: no more than it has."""
    bandwidth: float = 125.0
    """MB a second that a dry run assumes in its estimate."""
    price_cpu_hour: float | None = None
    """What a CPU costs an hour, for the estimate of a dry run; None: not known, as below."""
    price_gpu_hour: float | None = None
    price_gb_month: float | None = None
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec options of the mirror's store; may hold credentials."""
    source_storage_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec options of `source_root`; may hold credentials."""

    def job(self) -> Job:
        """A new run, with its own id and what its stages need to know of the options."""
        return Job(
            run_id=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}",
            dest=self.dest,
            source_root=self.source_root,
            dest_options=self.storage_options,
            source_options=self.source_storage_options,
            asks_hub=self.check_sources,
            keep_sources=self.keep_sources,
        )

    def shown(self) -> dict[str, Any]:
        """The options as a run writes them to its mirror: fit for JSON, and without secrets."""
        named = {each.name for each in fields(self) if each.repr}
        options = {name: value for name, value in asdict(self).items() if name in named}
        options |= {name: redact(options[name] or "") for name in ("dest", "source_root")}
        options["zoo"] = [redact(spec) for spec in self.zoo]
        return {**options, "zooadapt_version": __version__}

    @property
    def targets(self) -> tuple[Target, ...]:
        """The targets for each model. Of several with the same bands and scheme only the first."""
        wanted = [*map(Bands.counted, self.chans), *self.bands]
        targets = [Target.of(bands, self.scheme) for bands in wanted]
        unique = {(t.in_chans, t.names, t.scheme): t for t in reversed(targets)}
        return tuple(reversed(unique.values()))


def run_options(command: Command) -> Command:
    """Decorate a click command with a run's options. The command is called with one `Config`."""

    def called(**options: Any) -> Any:
        return command(_config(options))

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    wrapped: Any = called
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _load_file(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Make the YAML file's entries the defaults of the other options. Raises UsageError."""
    if value is None:
        return
    entries = _read_yaml(Path(value))
    known = {option.name for option in context.command.params} - {"config"}
    unknown = sorted(entries.keys() - known - set(_FILE_ONLY))
    if unknown:
        raise UsageError(
            f"{value}: unknown option {', '.join(unknown)}; choose from "
            f"{', '.join(sorted(known))} and {', '.join(_FILE_ONLY)}"
        )
    context.obj = {name: _mapping(value, name, entries.get(name) or {}) for name in _FILE_ONLY}
    context.default_map = {
        name: _as_text(value, name, item)
        for name, item in entries.items()
        if name in known and item is not None
    }


@dataclass(frozen=True)
class Places:
    """Where a job's YAML file says that the mirror and the sources are."""

    dest: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source_storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source_root: str | None = field(default=None, repr=False)


def read_places(file: str | None) -> Places:
    """The places that a job's YAML file states; none without a file. Raises UsageError."""
    if file is None:
        return Places()
    entries = _read_yaml(Path(file))
    dest, root = (
        None if entries.get(name) is None else str(_as_text(file, name, entries[name]))
        for name in ("dest", "source_root")
    )
    options = {name: _mapping(file, name, entries.get(name) or {}) for name in _FILE_ONLY}
    return Places(dest, source_root=root, **options)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(file.read_text()) or {}
    except OSError as cause:
        raise UsageError(f"--config {file} can't be read: {cause.strerror}") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise UsageError(f"--config {file} isn't valid YAML{_place(cause)}") from cause
    if not isinstance(entries, dict):
        raise UsageError(f"--config {file} must hold options, one `name: value` on each line")
    return {str(name).replace("-", "_"): value for name, value in entries.items()}


def _place(error: Exception) -> str:
    """Where in the file the error is. The text there isn't quoted: it may be a password."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ""
    return f" in line {mark.line + 1}, column {mark.column + 1}; quote what isn't a plain word"


def _mapping(file: str, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{file}: {name} must be a mapping of fsspec options")
    return value


def _as_text(file: str, name: str, value: Any) -> str | list[str]:
    """A YAML value as it would be written on the command line. Raises UsageError."""
    if name in _REPEATED:
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, list) and name in _LISTS:
        return ",".join(map(str, value))
    if isinstance(value, list | dict):
        raise UsageError(f"{file}: {name} takes one value, not {value}")
    return str(value)


def parse_chans(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, ...]:
    if value is None:
        return ()
    if not _names(str(value)):
        raise UsageError("--chans is empty; give comma-separated channel counts, such as 1,4,8,25")
    counts = set()
    for part in _names(str(value)):
        count = int(part) if part.isascii() and part.isdigit() and len(part) < 9 else 0
        if not 1 <= count <= _MOST_CHANS:
            raise UsageError(
                f"--chans {value}: {part!r} isn't a channel count; give numbers from 1 to "
                f"{_MOST_CHANS}"
            )
        counts.add(count)
    return tuple(sorted(counts))


def parse_bands(
    context: click.Context, parameter: click.Parameter, value: Sequence[str]
) -> tuple[Bands, ...]:
    return tuple(dict.fromkeys(bands.parse(text) for text in value))


def parse_names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_names(str(value or ""))))


def _names(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _option(name: str, **settings: Any) -> Callable[[Command], Command]:
    variable = "ZOOADAPT_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, **{"envvar": variable, "show_default": True, **settings})


_OPTIONS = [
    _option("--config", callback=_load_file, is_eager=True, expose_value=False, metavar="FILE",
            help="A YAML file with any of these options."),
    _option("--chans", callback=parse_chans, metavar="N,…",
            help="Channel counts to adapt models to, each 1 or more."),
    _option("--bands", multiple=True, callback=parse_bands, metavar="BANDS",
            help="Named bands: a preset, PRESET:NAME,…, names, or a YAML file. Can be repeated."),
    _option("--scheme", type=click.Choice(sorted(SCHEMES)),
            help="How channels read the original ones; see the README for the default."),
    _option("--dest", default="mirror", metavar="URL", help="The mirror: a folder or fsspec URL."),
    _option("--zoo", default="timm", callback=parse_names, metavar="NAME,…",
            help="Where models come from: timm, torchvision, folder:URL, hub:FILE, …"),
    _option("--models", callback=parse_names, metavar="GLOB,…", help="Only models that match."),
    _option("--exclude", callback=parse_names, metavar="GLOB,…", help="No models that match."),
    _option("--license", callback=parse_names, metavar="GLOB,…",
            help="Adapt only models whose licence matches; `unknown` matches models without one."),
    _option("--source-root", metavar="URL",
            help="Read checkpoints below this folder or URL instead of from the Hub."),
    _option("--max-models", type=click.IntRange(min=1), metavar="N",
            help="Adapt at most N models."),
    _option("--dry-run", is_flag=True, help="Print the plan and what it would cost, and stop."),
    _option("--retry-failed", is_flag=True, help="Try recorded failures again, too."),
    _option("--check-sources", is_flag=True,
            help="Ask whether checkpoints or licences have changed, and update the mirror."),
    _option("--keep-sources", is_flag=True,
            help="Leave checkpoints from the Hub in the Hugging Face cache."),
    _option("--max-hours", type=click.FloatRange(min=0, min_open=True), metavar="HOURS",
            help="Begin no model after this time. Run the same command again to resume."),
    _option("--cpus", type=click.IntRange(min=1), metavar="N",
            help="CPUs that the cluster's autoscaler can grow to. By default those that it has."),
    _option("--gpus", type=click.IntRange(min=1), metavar="N",
            help="GPUs that the cluster's autoscaler can grow to. By default those that it has."),
    _option("--node-memory", type=click.FloatRange(min=1), metavar="GB",
            help="Memory of the largest node that the autoscaler can add."),
    _option("--bandwidth", type=click.FloatRange(min=0, min_open=True), default=125.0,
            metavar="MB/S", help="Network speed to assume in the estimate of --dry-run."),
    *(_option(f"--price-{what}", type=click.FloatRange(min=0), metavar="MONEY",
              help=f"What {of} costs, for the estimate of --dry-run; in any currency.")
      for what, of in [("cpu-hour", "a CPU an hour"), ("gpu-hour", "a GPU an hour"),
                       ("gb-month", "a GB of the store a month")]),
]  # fmt: skip


def _config(options: dict[str, Any]) -> Config:
    from_file = click.get_current_context().obj or {}
    root = options.pop("source_root")
    if not options["chans"] and not options["bands"]:
        raise UsageError("nothing to make: give --chans, such as 1,4,8,25, or --bands")
    scheme = options["scheme"]
    if scheme and SCHEMES[scheme].named and options["chans"]:
        raise UsageError(f"--scheme {scheme} needs named bands: give --bands instead of --chans")
    return Config(
        **{**options, "dest": absolute(options["dest"], "--dest")},
        source_root=absolute(root, "--source-root") if root else None,
        **from_file,
    )
