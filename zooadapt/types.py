"""The nouns that cross stages: small frozen records, picklable, with units on each field."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zooadapt.errors import StageError, Unsupported, one_line
from zooadapt.names import file_name
from zooadapt.targets import Bands, Target

Row = dict[str, Any]
"""A row of one of the mirror's tables, or a record, by its columns or keys."""

Status = Literal["unsupported", "failed", "removed"]
STAGES = ("fetch", "adapt", "publish", "validate")
"""Where the seconds of a model go, as events and summaries state them; "validate" is the proof."""

Proof = Literal["forward", "stem"]
Use = Literal["plain", "standardise", "shift"]


DESCRIBED = " described="
"""In a source's identity before what tells one description of the model from another."""


@dataclass(frozen=True, slots=True)  # there may be a million
class ModelEntry:
    """One pretrained model of a zoo, as the zoo lists it; nothing was read from the network yet."""

    zoo: str
    name: str
    """Unique within the zoo, such as ``resnet18.a1_in1k``."""
    architecture: str
    pretrained_tag: str
    """Which weights of the architecture; "" where it has one set only."""
    license: str | None
    """As the source states it; None where it states none."""
    hub_id: str | None = None
    """``owner/repo`` on the Hub, perhaps with ``@revision``."""
    url: str | None = None
    """Any other place of the checkpoint; taken where there is no `hub_id`."""
    config: str | None = None
    """The JSON that describes the model, where its zoo reads it beside the checkpoint."""

    @property
    def in_place(self) -> bool:
        """Whether it was listed where its checkpoint lies; no ``--source-root`` stands in then."""
        return self.config is not None and self.hub_id is None


@dataclass(frozen=True)
class Listing:
    """Where a zoo that has no list of its own finds its models."""

    place: str = ""
    """What follows the colon in ``--zoo NAME:PLACE``; "" where nothing does."""
    source_root: str | None = field(default=None, repr=False)
    """What stands in for the Hub."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options of the place, or of the `source_root`."""


@dataclass(frozen=True)
class ModelFacts:
    """What a zoo states of a model, for one number of channels."""

    bands: Bands
    height: int
    """Pixels of the model's own input size."""
    width: int
    mean: tuple[float, ...]
    """Per channel, for images in 0..1; as long as `bands`, as `std`."""
    std: tuple[float, ...]
    num_classes: int
    """0 where there is no classifier."""
    min_timm: str = ""
    """The oldest timm release that loads a variant of it; "" where timm can't."""
    frames: int = 0
    """Of a video; 0 for models of single images."""

    @property
    def chans(self) -> int:
        """The number of channels."""
        return len(self.bands)

    @property
    def size(self) -> tuple[int, ...]:
        """What follows the channels in the shape of an image: (height, width), of a video
        (frames, height, width)."""
        return (self.frames,) * bool(self.frames) + (self.height, self.width)


@dataclass(frozen=True)
class Source:
    """A checkpoint as its source describes it, before it is read."""

    uri: str
    """Where the bytes come from, pinned where the source can pin; no secrets."""
    identity: str
    """What the source says of the content (commit, ETag, size …); it changes when the bytes do."""
    bytes: int | None
    sha256: str
    """The stated hash in hex, whole or its first digits; "" where none is stated."""

    @property
    def file_name(self) -> str:
        """What follows the last "/" of the URI's path."""
        return file_name(self.uri)

    @staticmethod
    def identity_of(facts: Mapping[str, Any]) -> str:
        """What tells one content from another, of what fsspec says: ETag or last change, size."""
        kinds = ("ETag", "Last-Modified", "LastModified", "mtime")
        changed = next((f"{kind}={facts[kind]}" for kind in kinds if facts.get(kind)), "unstated")
        return f"{changed} bytes={facts.get('size')}"


@dataclass(frozen=True)
class Located:
    """A checkpoint found at its source, with what is needed to read it (maybe a credential)."""

    source: Source
    filesystem: Any = field(repr=False)
    """fsspec's."""
    path: str = field(repr=False)
    """The filesystem's own; perhaps a signed URL, which runs out."""
    when: float = field(default_factory=time.time)
    """Seconds since the epoch; what isn't pinned may have changed since."""
    renew: "Callable[[Located], Located] | None" = field(default=None, repr=False)
    """Finds the same bytes again, where the path runs out; importable."""


@dataclass(frozen=True)
class Gain:
    """The per-filter gain of a stem that standardises its weight: it can make up for it."""

    name: str
    """Of the tensor, of shape (filters, 1, 1, 1)."""
    gamma: float
    """The forward pass multiplies the standardised weight by gain · gamma / √fan_in."""
    eps: float
    """Added to the weight's variance."""


@dataclass(frozen=True)
class Layer:
    """How a layer of a zoo's library applies its weight to the image."""

    pixels: int = 1
    """Pixels of each channel that lie in the weight's channel axis: b·b after space-to-depth with
    blocks of b pixels, P·P for patches of P pixels."""
    channels_last: bool = True
    """Whether they lie pixel by pixel, the channels within each; else channel by channel."""
    use: Use = "plain"
    """As of `Stem`."""
    gain: Gain | None = None


@dataclass(frozen=True)
class Stem:
    """A tensor that reads the image: viewed as (outer, channels, inner), its middle axis is colour.

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
    """The tensor's own axis that grows with the channels, perhaps folded with pixels."""
    outer: int
    inner: int
    use: Use = "plain"
    """What the forward pass does first: nothing, `standardise` the weight, or `shift` the image
    (add the same constant to every channel). Only the first always preserves the function."""
    gain: Gain | None = None

    @property
    def module(self) -> str:
        """The name of the module that holds the tensor."""
        return self.name.rpartition(".")[0]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The names of all tensors that an adaptation may change."""
        return (self.name, self.gain.name) if self.gain else (self.name,)


@dataclass(frozen=True, slots=True)
class Request:
    """One model and the variants wanted of it."""

    entry: ModelEntry
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Job:
    """What every stage of a run needs to know. Holds credentials: never printed or stored."""

    run_id: str
    dest: str = field(repr=False)
    """The mirror's root, an absolute fsspec URL."""
    source_root: str | None = field(default=None, repr=False)
    dest_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options of `dest`."""
    source_options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options of the sources."""


@dataclass(frozen=True)
class Checkpoint:
    """The facts of a checkpoint that was read."""

    location: str
    """The stable name of where it was asked for; work is skipped by it."""
    uri: str
    identity: str
    sha256: str
    """Of the whole file, 64 hex digits."""
    bytes: int


@dataclass(frozen=True)
class Published:
    """A variant whose objects are in the mirror and which nobody has run yet."""

    target: Target
    folder: str
    """Relative to the mirror's root."""
    sha256: str
    """Of model.safetensors, 64 hex digits."""
    bytes: int
    """Size of model.safetensors."""
    head: int
    """Of its bytes, those before the part that all variants of the model share."""
    seams: tuple[int, ...] = ()
    """Where in the shared part begins what the store copied from the first variant, with right
    checksums; () where all was sent, or the store states no checksums."""
    sent_sha256: str = ""
    """Of the bytes before the first seam; "" where there is none."""


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
        """That a target wasn't made, for this reason."""
        status: Status = "unsupported" if isinstance(error, Unsupported) else "failed"
        key = target.in_chans, target.names, target.scheme
        return Failure(*key, status, error.stage, error.error_type, one_line(error))


@dataclass(frozen=True)
class Adapted:
    """One model after publishing and before validation."""

    entry: ModelEntry
    checkpoint: Checkpoint
    facts: ModelFacts
    """For the checkpoint's own number of channels, B."""
    stems: tuple[Stem, ...]
    filled: tuple[str, ...]
    """Tensors absent from the checkpoint that the model computes by itself."""
    source_stem: str
    """Key of the original stem tensors (safetensors) in the mirror."""
    variants: tuple[Published, ...]
    failures: tuple[Failure, ...]
    seconds: dict[str, float]
    """By stage: fetch, adapt (read it, tell its stems) and publish (W·M and sending it)."""


TOLERANCE = 1e-4
"""Largest error of an equivalent variant: the rounding of a float32 forward pass, for which 8e-7 to
2e-5 was measured."""

LEAST_CONTROL = 100 * TOLERANCE
"""Smallest control of an equivalent variant."""


@dataclass(frozen=True)
class ProofResult:
    """How far a variant is from base(M·x), in units of the image's own effect on the output."""

    equivalence_error: float
    control_error: float
    """The same figure for a stem known to be wrong."""
    equivalent: bool
    proof: Proof
    """Whether the model's outputs were compared, or its stems' only."""


@dataclass(frozen=True)
class ModelSummary:
    """What became of one model in one run, for the driver's bars and tables."""

    entry: ModelEntry
    made: tuple[str, ...]
    """The variants now in the mirror, as `Target.short`."""
    failures: tuple[Failure, ...]
    bytes_read: int
    bytes_written: int
    seconds: dict[str, float]
    """By stage: fetch, adapt, publish and validate; those that weren't reached are absent."""
    checked_on: str
    """The device's name; "" where nothing was validated."""
