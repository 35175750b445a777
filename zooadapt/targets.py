"""What a user asks for: the bands of an image, a scheme, or a target, which is both together.

`adapt.schemes` computes the matrices of the schemes; this module needs no torch.
"""

from dataclasses import dataclass, replace

from zooadapt.errors import Unsupported


@dataclass(frozen=True)
class Scheme:
    """A rule by which a model is adapted to other channels."""

    name: str
    corrects_gain: bool = False
    """Whether the gain of a standardised stem is adapted too, to keep the function."""
    named: bool = False
    """Whether the scheme needs named bands."""


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("repeat"),
        Scheme("preserve", corrects_gain=True),
        Scheme("pad"),
        Scheme("mean"),
        Scheme("nearest", named=True),
        Scheme("rgb-only", named=True),
    )
}


def get_scheme(scheme: str) -> Scheme:
    """The scheme of that name. A dot and a digest of the bands can follow the name."""
    return SCHEMES[scheme.partition(".")[0]]


@dataclass(frozen=True)
class Band:
    """One channel of an image."""

    name: str = ""
    """The band's name; "" where channels are only counted."""
    wavelength: float | None = None
    """The centre wavelength in nm; None if the band has none (radar) or it is unknown."""
    width: float = 0.0
    """The full width in nm; 0 if it is unknown."""
    weights: tuple[tuple[str, float], ...] = ()
    """Explicit weights: names of base channels, each with the share of its filter that is taken."""


@dataclass(frozen=True)
class Bands:
    """The channels of an image, in order: all named, or none."""

    label: str
    """A short name, for folders too; "" where channels are only counted."""
    channels: tuple[Band, ...]
    rgb: tuple[str, ...] = ()
    """The names of the red, green and blue channels, in this order; () where there are none."""
    digest: str = ""
    """A hash of the user's own YAML file, which tells bands of the same names apart; else ""."""

    def __len__(self) -> int:
        return len(self.channels)

    @property
    def names(self) -> tuple[str, ...]:
        """The channels' names; () where they are only counted."""
        return tuple(band.name for band in self.channels) if self.label else ()

    @staticmethod
    def counted(number: int) -> "Bands":
        """Bands that are `number` channels without names."""
        return Bands("", (Band(),) * number)


@dataclass(frozen=True)
class Target:
    """What a variant is made for: bands and a scheme."""

    bands: Bands
    scheme: str
    """The scheme's name, or "" where it depends on the model (see `for_base`); if the bands have a
    digest, followed by a dot and the digest."""

    @staticmethod
    def of(bands: Bands, scheme: str | None = None) -> "Target":
        """The target for `bands`; by default `repeat` for channels without names."""
        rule = scheme or ("" if bands.label else "repeat")
        return Target(bands, f"{rule}.{bands.digest}" if bands.digest else rule)

    @property
    def is_open(self) -> bool:
        """Whether the scheme depends on the model."""
        return not self.scheme.partition(".")[0]

    def for_base(self, base: Bands) -> "Target":
        """The target for a model whose own channels are `base`.

        The scheme of named bands is `rgb-only` by default where both have red, green and blue, as
        README.md in `adapt` explains. Else, and where a user gives weights, it is `nearest`.
        """
        if not self.is_open:
            return self
        both = self.bands.rgb and base.rgb and base.rgb == base.names
        weighted = any(band.weights for band in self.bands.channels)
        rule = "rgb-only" if both and not weighted else "nearest"
        return replace(self, scheme=rule + self.scheme)

    def admits(self, scheme: str) -> bool:
        """Whether a variant under `scheme` will do: any scheme where that depends on the model."""
        digest = scheme.partition(".")[2]
        return self.scheme == scheme or (self.is_open and digest == self.bands.digest)

    @property
    def in_chans(self) -> int:
        """The number of channels, N."""
        return len(self.bands)

    @property
    def names(self) -> str:
        """The value of the column `bands`: names joined by commas, "" for channels only counted."""
        return ",".join(self.bands.names)

    @property
    def short(self) -> str:
        """The label of the bands, or else the number of channels, for people to read."""
        return self.bands.label or str(self.in_chans)

    @property
    def caution(self) -> str:
        """What to know of a variant whose stem doesn't read all bands; "" for any other."""
        if get_scheme(self.scheme).name != "rgb-only" or self.in_chans <= 3:
            return ""
        return (
            f"{self.in_chans - 3} of {self.in_chans} bands start at zero (rgb-only); with a frozen "
            f"stem they are ignored, training takes them up; the scheme nearest reads them at once"
        )

    @property
    def spoken(self) -> str:
        """What the target is for, such as "4 channels" or "the bands naip"."""
        return f"the bands {self.bands.label}" if self.bands.label else f"{self.in_chans} channels"

    @property
    def label(self) -> str:
        """The beginning of a folder name, such as ``8ch-repeat`` or ``4ch-R-G-B-NIR-nearest``."""
        parts = [f"{self.in_chans}ch", self.bands.label, self.scheme]
        return "-".join(part for part in parts if part)


def check_scheme(scheme: str, source: Bands, target: Bands) -> None:
    """Raise Unsupported, with the reason, if the scheme has no matrix for these channels.

    `source` lists the channels of the original weights, `target` those of the variant.
    """
    match get_scheme(scheme).name:
        case "nearest":
            _check_nearest(source, target)
        case "rgb-only":
            _check_rgb_only(source, target)


def _check_nearest(source: Bands, target: Bands) -> None:
    if not target.names:
        raise Unsupported("nearest needs named bands; give --bands")
    if not source.names:
        raise Unsupported(f"nearest needs named channels; the model's own {len(source)} have none")
    for band in target.channels:
        for name, _ in band.weights:
            if name not in source.names:
                raise Unsupported(
                    f"weights are given for the base channel {name}; the model has "
                    f"{', '.join(source.names)}"
                )


def _check_rgb_only(source: Bands, target: Bands) -> None:
    if source.rgb != source.names or not source.rgb:
        raise Unsupported("rgb-only needs a model with red, green and blue channels")
    if not target.rgb:
        which = f"{target.label} has none" if target.label else "give bands= (--bands)"
        raise Unsupported(f"rgb-only needs red, green and blue bands; {which}")
