"""What is chosen by name, checked: a preset, a row, a backend."""

import difflib
from collections.abc import Collection, Iterable


def refuse_unknown(what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse a name that is not among those known, with the one that it resembles or the first."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"try {next(iter(known))}"
            raise ValueError(f"expected {what} among {', '.join(known)}, received {name!r}; {hint}")


def refuse_repeated(what: str, names: Collection[str]) -> None:
    """Refuse no name at all, and one that is there twice."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"expected different {what}, received {', '.join(names)}")
