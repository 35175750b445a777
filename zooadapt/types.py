"""The data that stages pass to each other: small, frozen, picklable; fields state their units."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from zooadapt.errors import StageError, Unsupported, one_line
from zooadapt.names import file_name
from zooadapt.targets import Bands, Target

Row = dict[str, Any]
"""A row of one of the mirror's tables by column, or a record by key."""

Status = Literal["unsupported", "failed", "removed"]
"""Why a variant isn't in the mirror; "removed" means that there is a takedown."""
STAGES = ("fetch", "adapt", "publish", "validate")
"""The stages whose seconds events and summaries state; "validate" is their name for proving."""

Proof = Literal["forward", "stem", "none"]
"""See `ProofResult.proof`."""
Use = Literal["plain", "standardise", "shift"]
"""See `Stem.use`."""


DESCRIBED = " described="
"""Comes before the hash of the model's description in the identity of a source."""


@dataclass(frozen=True, slots=True)  # slots, because a zoo can list a million
class ModelEntry:
    """One pretrained model as its zoo lists it. Its checkpoint hasn't been looked up yet."""

    zoo: str
    name: str
    """The model's name, unique within the zoo, such as ``resnet18.a1_in1k``."""
    architecture: str
    pretrained_tag: str
    """Names one of the architecture's sets of weights; "" where there is only one."""
    license: str | None
    """The licence as the source states it; None where it states none."""
    hub_id: str | None = None
    """The Hub repository, ``owner/repo``, optionally with ``@revision``."""
    url: str | None = None
    """The checkpoint's URL; used only where there is no `hub_id`."""
    config: str | None = None
    """JSON that describes the model, from beside the checkpoint; None if the zoo needs none."""

    @property
    def in_place(self) -> bool:
        """Whether the zoo found the model beside its checkpoint, and ignores ``--source-root``."""
        return self.config is not None and self.hub_id is None


@dataclass(frozen=True)
class Listing:
    """Where a zoo without a list of its own finds its models."""

    place: str = ""
    """The PLACE in ``--zoo NAME:PLACE``; "" where there is none."""
    source_root: str | None = field(default=None, repr=False)
    """The folder or URL that is read instead of the Hub; None for the Hub itself."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options of `place`, or of `source_root`."""


@dataclass(frozen=True)
class ModelFacts:
    """What a zoo states about a model with a given number of channels."""

    bands: Bands
    height: int
    """The height of the model's own input, in pixels."""
    width: int
    """The width of the model's own input, in pixels."""
    mean: tuple[float, ...]
    """The mean of each channel, for images in 0..1; as long as `bands`, or () if none is stated."""
    std: tuple[float, ...]
    """The standard deviation of each channel, for images in 0..1; as `mean`."""
    num_classes: int
    """The number of classes; 0 where the model has no classifier."""
    min_timm: str = ""
    """The oldest timm release that loads a variant of the model; "" where timm can't load it."""
    frames: int = 0
    """The number of frames of a video; 0 for models of single images."""

    @property
    def chans(self) -> int:
        """The number of channels."""
        return len(self.bands)

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of the input without batch and channels, in pixels: (height, width), or
        (frames, height, width) for a video."""
        return (self.frames,) * bool(self.frames) + (self.height, self.width)


@dataclass(frozen=True)
class Source:
    """A checkpoint as its source describes it, before it is read."""

    uri: str
    """Where the bytes come from, without secrets; pinned to a commit if the source has commits."""
    identity: str
    """What the source states of the content (commit, ETag, size …); it changes with the bytes."""
    bytes: int | None
    """The stated size; None where none is stated."""
    sha256: str
    """The stated SHA-256 in hex, or its first digits; "" where none is stated."""

    @property
    def file_name(self) -> str:
        """The file name in the URI: what follows the last "/" of its path."""
        return file_name(self.uri)

    @staticmethod
    def identity_of(facts: Mapping[str, Any]) -> str:
        """An identity made of fsspec's facts on a file: its ETag or last change, and its size."""
        kinds = ("ETag", "Last-Modified", "LastModified", "mtime")
        changed = next((f"{kind}={facts[kind]}" for kind in kinds if facts.get(kind)), "unstated")
        return f"{changed} bytes={facts.get('size')}"


@dataclass(frozen=True)
class Located:
    """A checkpoint that was found at its source, and how to read it. It can hold a credential."""

    source: Source
    filesystem: Any = field(repr=False)
    """The fsspec filesystem that holds the checkpoint."""
    path: str = field(repr=False)
    """The checkpoint's path on `filesystem`; it can be a signed URL, which expires."""
    when: float = field(default_factory=time.time)
    """When it was found, in seconds since the epoch; an unpinned file can have changed since."""
    renew: "Callable[[Located], Located] | None" = field(default=None, repr=False)
    """A picklable function that finds the same bytes under a new path; None if none is needed."""


@dataclass(frozen=True)
class Gain:
    """The per-filter gain of a stem that standardises its weight. It restores the filter's norm."""

    name: str
    """The name of the gain tensor, whose shape is (filters, 1, 1, 1)."""
    gamma: float
    """The forward pass multiplies the standardised weight by gain · gamma / √fan_in."""
    eps: float
    """The forward pass adds this to the weight's variance."""


@dataclass(frozen=True)
class Layer:
    """How a layer of a zoo's library applies its weight to the image."""

    pixels: int = 1
    """The pixels of each channel that are folded into the weight's channel axis: 1 for a plain
    convolution, b·b after space-to-depth with blocks of b×b, P·P for patches of P×P."""
    channels_last: bool = True
    """Whether the axis is ordered by pixel, with the channels inside (P, P, C); else (C, P, P)."""
    use: Use = "plain"
    """See `Stem.use`."""
    gain: Gain | None = None


@dataclass(frozen=True)
class Stem:
    """A tensor that reads the image. Viewed as (outer, channels, inner), its middle axis is colour.

    ===================  ======================  ======  ==========  =======
    kind                 shape                   axis    outer       inner
    ===================  ======================  ======  ==========  =======
    convolution          (O, C, *kernel)         1       O           |kernel|
    after space-to-depth (O, b·b·C, kH, kW)      1       O·b·b       kH·kW
    patches, C last      (O, P·P·C)              1       O·P·P       1
    patches, C first     (O, C·P·P)              1       O           P·P
    ===================  ======================  ======  ==========  =======
    """

    name: str
    """The tensor's name in the state dict, such as ``conv1.weight``."""
    axis: int
    """The tensor's axis that grows with the number of channels; it can have pixels folded in."""
    outer: int
    inner: int
    use: Use = "plain"
    """What the forward pass does first: nothing (`plain`), standardise the weight (`standardise`),
    or add the same constant to every channel of the image (`shift`). Only a `plain` stem is always
    adapted exactly."""
    gain: Gain | None = None

    @staticmethod
    def of(described: Mapping[str, Any]) -> "Stem":
        """The stem that a config.json describes."""
        gain = described["gain"]
        return Stem(**{**described, "gain": Gain(**gain) if gain else None})

    @property
    def module(self) -> str:
        """The name of the module that holds the tensor."""
        return self.name.rpartition(".")[0]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors that an adaptation can change."""
        return (self.name, self.gain.name) if self.gain else (self.name,)


@dataclass(frozen=True, slots=True)
class Request:
    """One model and the targets to adapt it to."""

    entry: ModelEntry
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Job:
    """What every stage of a run needs to know. It holds credentials: never print or store it."""

    run_id: str
    dest: str = field(repr=False)
    """The mirror's root, an absolute fsspec URL."""
    source_root: str | None = field(default=None, repr=False)
    """The folder or URL that is read instead of the models' own sources; None to read those."""
    dest_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options of `dest`."""
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options of the sources."""
    asks_hub: bool = False
    """Whether the Hub is asked even for what the Hugging Face cache has: it may have changed."""
    keep_sources: bool = False
    """Whether what is downloaded from the Hub stays in the Hugging Face cache."""


@dataclass(frozen=True)
class Checkpoint:
    """The facts of a checkpoint that was read; `uri` and `identity` are those of its `Source`."""

    location: str
    """The stable address of the checkpoint; later runs skip the variants that were made from it."""
    uri: str
    identity: str
    sha256: str
    """The SHA-256 of the whole file, 64 hex digits."""
    bytes: int
    note: str = ""
    """How the model's tensors were found in the file, where they weren't all of it under the
    model's own names."""


@dataclass(frozen=True)
class Published:
    """A variant whose objects are in the mirror and which isn't proved yet."""

    target: Target
    folder: str
    """The key of the variant's folder."""
    sha256: str
    """The SHA-256 of model.safetensors, 64 hex digits."""
    bytes: int
    """The size of model.safetensors."""
    head: int
    """The bytes of model.safetensors before the part that all variants of the model share."""
    head_sha256: str
    """The SHA-256 of those bytes, 64 hex digits."""
    seams: tuple[int, ...] = ()
    """The offsets in the shared part at which the store's copies from the first variant begin; ()
    if everything was sent, or if the store stated no checksums of its copies."""


@dataclass(frozen=True)
class Failure:
    """A variant that isn't in the mirror, and why."""

    in_chans: int
    bands: str
    scheme: str
    status: Status
    stage: str
    error_type: str
    error: str

    @staticmethod
    def of(target: Target, error: StageError) -> "Failure":
        """The failure of a target because of `error`."""
        status: Status = "unsupported" if isinstance(error, Unsupported) else "failed"
        key = target.in_chans, target.names, target.scheme
        return Failure(*key, status, error.stage, error.error_type, one_line(error))


@dataclass(frozen=True)
class Complexity:
    """What a forward pass of one image of the checkpoint's own B channels computes."""

    macs: int
    """Multiply-accumulates."""
    macs_of_channel: int
    """The multiply-accumulates that each input channel takes in the stems."""
    activations: int
    """Values of the outputs of convolutions, matrix products and attention, for any channels."""


@dataclass(frozen=True)
class Adapted:
    """One model whose variants are published and not proved yet."""

    entry: ModelEntry
    checkpoint: Checkpoint
    facts: ModelFacts
    """The facts for the checkpoint's own number of channels, B."""
    stems: tuple[Stem, ...]
    complexity: Complexity | None
    """None where it can't be counted."""
    filled: tuple[str, ...]
    """The names of tensors that the checkpoint lacks and the model computes itself."""
    source_stem: str
    """The key of the file that holds the original stem tensors (safetensors)."""
    variants: tuple[Published, ...]
    failures: tuple[Failure, ...]
    seconds: dict[str, float]
    """Seconds by stage: fetch, adapt (read, find the stems), publish (compute W·M, send it)."""


TOLERANCE = 1e-4
"""The largest error of an equivalent variant. It leaves room for the rounding of a float32 forward
pass, which was measured at 8e-7 to 2e-5."""

LEAST_CONTROL = 100 * TOLERANCE
"""The smallest control of an equivalent variant: a stem known to be wrong must show this much."""


@dataclass(frozen=True)
class ProofResult:
    """The outcome of a proof. Errors are in units of another image's effect on the output."""

    equivalence_error: float
    """The largest difference between the variant's output and base(M·x)."""
    control_error: float
    """The same difference for a stem known to be wrong."""
    equivalent: bool
    proof: Proof
    """What was compared: the outputs of the model ("forward"), or only of its stems ("stem");
    "none" where nothing was run."""
    changed: str | None = None
    """Why the variant computes another function, and which scheme keeps it; None where it computes
    the original's."""

    @staticmethod
    def of(row: Mapping[Any, Any]) -> "ProofResult":
        """The result that a manifest's row states."""
        return ProofResult(**{part.name: row[part.name] for part in fields(ProofResult)})


@dataclass(frozen=True)
class Outage:
    """A source or a store that didn't do what every model needs; it may by itself again."""

    place: str
    """What doesn't answer, without secrets."""
    task: Literal["look-up", "download", "write"]
    reason: str
    until: float = 0.0
    """When the source takes requests again, as it says, in seconds since the epoch; 0 where it
    doesn't say."""


@dataclass(frozen=True)
class ModelSummary:
    """The outcome of one model in one run, for the driver's progress bars and tables."""

    entry: ModelEntry
    made: tuple[str, ...]
    """The variants now in the mirror, as `Target.short`."""
    failures: tuple[Failure, ...]
    bytes_read: int
    bytes_written: int
    seconds: dict[str, float]
    """Seconds by stage: fetch, adapt, publish and validate; stages not reached are absent."""
    checked_on: str
    """The name of the device that proved the variants; "" where none was proved."""
    postponed: tuple[str, ...] = ()
    """The variants that couldn't be made because of `outage`, as `Target.short`. Nothing is
    recorded of the model then, so that the next run takes it up again."""
    outage: Outage | None = None
    changed: tuple[str, ...] = ()
    """The variants of `made` whose function is another than the original's, or that weren't proved,
    as `Target.short`."""
    why_changed: tuple[str, ...] = ()
    """By how much and why the function of each of `changed` is another."""
