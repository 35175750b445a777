"""Progress bars on terminals and in notebooks; none where the output goes to a file."""

import sys
from collections.abc import Iterable
from typing import Any


def bar(of: Iterable[Any] | None = None, *, shown: bool = True, **options: Any) -> Any:
    """A tqdm bar over `of`, or one that is updated by hand; `options` are tqdm's."""
    from tqdm.auto import tqdm

    # tqdm's own rule, None, is "on a terminal", and a notebook isn't one.
    quiet = (False if "ipykernel" in sys.modules else None) if shown else True
    return tqdm(of, disable=quiet, **options)
