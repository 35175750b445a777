"""How a reader wants a variant to be made that no mirror has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Making:
    """Whether and how a variant is made that no mirror has."""

    derive: bool = True
    """Whether it is made at all."""
    prove: bool = True
    """Whether it is run and compared with the original. Every stored bit is compared anyway."""
    device: str = "cpu"
    """Where it is run, as torch names devices."""

    def places(self, name: str) -> list[str]:
        """The folders of the cache in which a variant will do; it is made in the last."""
        return [name] if self.prove else [name, f"{name}-unproved"]
