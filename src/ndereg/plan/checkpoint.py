"""Which states the discrete adjoint keeps, and how the others come back.

The forward pass offers the state at the start of every recorded row; at most ``slots`` of them are
kept, at a stride that doubles whenever the slots are full. The reverse pass recomputes a segment
between two kept states in segments of its own, again with at most ``slots`` states a level, so the
number of states alive is ``O(slots)`` for any number of rows, for one extra forward pass a level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

State = TypeVar("State")


class Checkpoints(Generic[State]):
    """States at the start of rows 0, s, 2 s, ...; the stride ``s`` doubles when slots run out.

    Examples
    --------
    >>> kept = Checkpoints(slots=2)
    >>> for row in range(5):
    ...     kept.offer(row, row * 10)
    >>> kept.stride, kept.states
    (4, {0: 0, 4: 40})
    >>> list(kept.backwards(5, lambda row, state: state + 10))
    [(4, 40), (3, 30), (2, 20), (1, 10), (0, 0)]
    >>> list(kept.backwards(5, lambda row, state: state + 10, unread=4))
    [(4, 40), (3, None), (2, None), (1, None), (0, 0)]
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.stride = 1
        self.states: dict[int, State] = {}
        self.peak = 0
        """Most states alive at once, those of the reverse pass included."""
        self._alive = 0

    def offer(self, row: int, state: State) -> None:
        """Keep the state at the start of ``row`` if it is due."""
        if row % self.stride:
            return
        if len(self.states) == self.slots:
            self.stride *= 2
            self.states = {at: kept for at, kept in self.states.items() if at % self.stride == 0}
            if row % self.stride:
                return
        self.states[row] = state
        self.peak = max(self.peak, len(self.states))

    def backwards(
        self, rows: int, advance: Callable[[int, State], State], unread: int = 0
    ) -> Iterator[tuple[int, State | None]]:
        """Yield ``(row, state)`` from the last row to the first.

        ``advance(row, state)`` recomputes the state at the end of ``row``. The first ``unread``
        rows are yielded without a state where it would have to be recomputed for them alone.
        """
        self._alive = len(self.states)
        stop = rows
        for start in sorted(self.states, reverse=True):
            if stop <= unread:
                break
            yield from self._segment(start, stop, self.states[start], advance)
            stop = start
        for row in reversed(range(stop)):
            yield row, self.states.get(row)

    def _segment(
        self, start: int, stop: int, state: State, advance: Callable[[int, State], State]
    ) -> Iterator[tuple[int, State]]:
        stride = segment_stride(stop - start, self.slots)
        kept = [(start, state)]
        for row in range(start, start + stride * ((stop - start - 1) // stride)):
            state = advance(row, state)
            if (row + 1 - start) % stride == 0:
                kept.append((row + 1, state))
        del state
        self._alive += len(kept) - 1
        self.peak = max(self.peak, self._alive)
        while kept:
            row, found = kept.pop()
            if stop - row == 1:
                yield row, found
            else:
                yield from self._segment(row, stop, found, advance)
            self._alive -= 1 if kept else 0
            stop = row


class Undone:
    """In place of :class:`Checkpoints` where steps can be undone: no state is kept.

    Examples
    --------
    >>> list(Undone().backwards(3, lambda row, state: state - 10, 30))
    [(2, 20), (1, 10), (0, 0)]
    """

    def __init__(self) -> None:
        self.states: dict[int, object] = {}

    def offer(self, row: int, state: object) -> None:
        """Keep nothing."""

    def backwards(
        self, rows: int, retreat: Callable[[int, State], State], state: State
    ) -> Iterator[tuple[int, State]]:
        """Yield ``(row, state)`` from the last row to the first, ``state`` being the end.

        ``retreat(row, state)`` recovers the state at the start of ``row`` from that at its end.
        """
        for row in reversed(range(rows)):
            state = retreat(row, state)
            yield row, state


def segment_stride(length: int, slots: int) -> int:
    """Stride at which a segment of ``length`` rows fits into ``slots`` states."""
    return -(-length // slots)
