"""What is wanted: the channels of an image, the schemes that make them, and both together.

A scheme's matrix is made in `schemes`; what is here needs no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """How a model is adapted to other channels."""

    name: str
    corrects_gain: bool = False
    """Whether a standardised stem's gain is kept right."""
    named: bool = False
    """Whether it goes by the bands' names."""


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


@dataclass(frozen=True)
class Band:
    """One channel of an image."""

    name: str = ""
    """"" where channels are only counted."""
    wavelength: float | None = None
    """Of its centre, in nm; None where it has none (radar) or none is known."""
    width: float = 0.0
    """In nm."""
    weights: tuple[tuple[str, float], ...] = ()
    """Explicit: how much of each base channel's filter it takes."""


@dataclass(frozen=True)
class Bands:
    """The channels of an image, in order: all named, or none."""

    label: str
    """Short and fit for a folder's name; "" where channels are only counted."""
    channels: tuple[Band, ...]
    rgb: tuple[str, ...] = ()
    """The names of those that are red, green and blue, in this order; () where there are none."""
    digest: str = ""
    """Of a description of one's own: tells it apart from another with the same names."""

    def __len__(self) -> int:
        return len(self.channels)

    @property
    def names(self) -> tuple[str, ...]:
        """The channels' names; () where they are only counted."""
        return tuple(band.name for band in self.channels) if self.label else ()

    @staticmethod
    def counted(number: int) -> "Bands":
        """So many channels without names."""
        return Bands("", (Band(),) * number)


@dataclass(frozen=True)
class Target:
    """A variant that is asked for."""

    bands: Bands
    scheme: str
    """The scheme's name, and the bands' digest behind a dot where they have one."""

    @staticmethod
    def of(bands: Bands, scheme: str | None = None) -> "Target":
        """By default `repeat` for channels that are only counted, `nearest` for named ones."""
        rule = scheme or ("nearest" if bands.label else "repeat")
        return Target(bands, f"{rule}.{bands.digest}" if bands.digest else rule)

    @property
    def in_chans(self) -> int:
        """The number of channels, N."""
        return len(self.bands)

    @property
    def names(self) -> str:
        """The manifest's `bands`: names joined by commas, "" where channels are only counted."""
        return ",".join(self.bands.names)

    @property
    def short(self) -> str:
        """For people: the name of the bands, or the number of channels."""
        return self.bands.label or str(self.in_chans)

    @property
    def label(self) -> str:
        """For folders, such as ``8ch-repeat`` or ``4ch-R-G-B-NIR-nearest``."""
        parts = [f"{self.in_chans}ch", self.bands.label, self.scheme]
        return "-".join(part for part in parts if part)
