"""Sums of arrays as lines of tensor code, in place as soon as the memory is the program's own."""

from __future__ import annotations


class Sum:
    """A sum under construction, in a variable of its own as soon as there are two terms."""

    def __init__(self, lines: list[str], name: str) -> None:
        self.lines = lines
        self.name = name
        self.value = ""
        self.fresh = False
        """Whether the value is memory that may be overwritten."""
        self.full = False

    def start(self, value: str, fresh: bool, full: bool) -> None:
        """Begin with an array that is there."""
        self.value, self.fresh, self.full = value, fresh, full

    def add(self, factor: str | None, array: str, full: bool) -> None:
        """Add ``factor * array``; None is 1."""
        if not self.value:
            if factor is None:
                self.start(array, fresh=False, full=full)
            else:
                self.made(f"{array} * ({factor})", full)
            return
        alpha = "" if factor is None else f", alpha={factor}"
        if self.fresh and (self.full or not full):
            self.lines.append(f"{self.value}.add_({array}{alpha})")
        else:
            self.made(f"add({self.value}, {array}{alpha})", self.full or full)

    def add_scaled(
        self, scale: str, factor: str | None, array: str, own: Sum | None = None
    ) -> None:
        """Add ``scale * factor * array`` where the scale is a tensor."""
        if not self.value:
            if own is not None:
                self.lines.append(f"{array}.mul_({scale})")
                self.start(array, fresh=True, full=True)
            else:
                self.made(f"{array} * ({scale}{'' if factor is None else f' * {factor}'})", True)
            return
        value = "" if factor is None else f", value={factor}"
        if self.fresh and self.full:
            self.lines.append(f"{self.value}.addcmul_({scale}, {array}{value})")
        else:
            self.made(f"addcmul({self.value}, {scale}, {array}{value})", True)

    def made(self, expression: str, full: bool) -> None:
        """Go on with new memory that holds an expression."""
        self.lines.append(f"{self.name} = {expression}")
        self.start(self.name, fresh=True, full=full)
