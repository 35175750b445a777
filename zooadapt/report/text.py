"""Numbers for people."""


def size(count: float) -> str:
    """A number of bytes for people: 18.8 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(number: int, noun: str) -> str:
    """Such as ``1 model`` or ``2,000 models``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
