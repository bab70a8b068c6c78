"""Scratch memory of a kernel: values that are never needed together share a slot."""

from __future__ import annotations

from dataclasses import dataclass

from ndereg.backends.numba.placement import Nest, Plan, Task
from ndereg.backends.numba.views import Buffer, View, contiguous

__all__ = ["allocate"]


@dataclass(eq=False)
class _Slot:
    """A scratch array, or an output before its result is written to it."""

    buffer: Buffer
    grows: bool
    last: Buffer | None = None  # occupied by this one...
    busy: int = -1  # ...up to this item
    limit: int | None = None  # item of the first write of the output's own value


@dataclass
class _Life:
    """The items at which a scratch buffer is first written and last used."""

    start: int
    end: int
    #: Whether the last use reads every entry just where a nest over that domain is.
    in_place: bool = True


def allocate(plan: Plan) -> list[Buffer]:
    """Name the scratch buffers of a plan, and return the arrays that the caller provides.

    An elementwise result may take the place of an operand that is last read there, entry by
    entry; an output that is only written later serves as scratch until then.
    """
    lives = _lives(plan)
    slots = _output_slots(plan)
    arrays: list[Buffer] = []
    for buffer, life in sorted(lives.items(), key=lambda pair: pair[1].start):
        slot = _choose(slots, buffer, life, lives, plan)
        if slot is None:
            array = Buffer("scratch", f"w{len(arrays)}", buffer.dtype, 0)
            arrays.append(array)
            slot = _Slot(array, grows=True)
            slots.append(slot)
        slot.buffer.size = max(slot.buffer.size, buffer.size)
        slot.last, slot.busy = buffer, life.end
        buffer.name = slot.buffer.name
    return arrays


def _lives(plan: Plan) -> dict[Buffer, _Life]:
    lives: dict[Buffer, _Life] = {}
    for place, item in enumerate(plan.items):
        for task in item.tasks:
            if task.dest is not None and task.dest.buffer.role == "scratch":
                life = lives.setdefault(task.dest.buffer, _Life(place, place))
                life.end = max(life.end, place)
    last_reads: dict[Buffer, list[View]] = {}
    for _, view, place, local in plan.reads:
        if local or view.buffer not in lives:
            continue
        life = lives[view.buffer]
        if place > life.end or view.buffer not in last_reads:
            last_reads[view.buffer] = []
        life.end = max(life.end, place)
        if place == life.end:
            last_reads[view.buffer].append(view)
    for buffer, life in lives.items():
        item = plan.items[life.end]
        life.in_place = isinstance(item, Nest) and all(
            _walks(view, item.domain) for view in last_reads.get(buffer, ())
        )
    return lives


def _walks(view: View, domain: tuple[int, ...]) -> bool:
    """Whether the view is the whole buffer in the order of the domain."""
    return view.is_like(contiguous(view.buffer, domain))


def _output_slots(plan: Plan) -> list[_Slot]:
    first: dict[Buffer, int] = {}
    added: set[Buffer] = set()
    for place, item in enumerate(plan.items):
        for task in item.tasks:
            if task.dest is not None and task.dest.buffer.role == "output":
                if task.dest.buffer not in first and task.accumulate:
                    added.add(task.dest.buffer)
                first.setdefault(task.dest.buffer, place)
    return [
        _Slot(buffer, grows=False, limit=place)
        for buffer, place in first.items()
        if buffer not in added
    ]


def _choose(
    slots: list[_Slot], buffer: Buffer, life: _Life, lives: dict[Buffer, _Life], plan: Plan
) -> _Slot | None:
    fitting = []
    for slot in slots:
        if slot.buffer.dtype != buffer.dtype or slot.busy > life.start:
            continue
        if slot.buffer.size < buffer.size and not slot.grows:
            continue
        if slot.busy == life.start and not _hands_over(slot.last, buffer, life.start, lives, plan):
            continue
        if slot.limit is not None and not _yields(slot, buffer, life, plan):
            continue
        fitting.append(slot)
    # The least waste: of those large enough the smallest, else the one that grows least.
    return min(fitting, key=lambda slot: abs(slot.buffer.size - buffer.size), default=None)


def _hands_over(
    old: Buffer | None, new: Buffer, place: int, lives: dict[Buffer, _Life], plan: Plan
) -> bool:
    """Whether ``new`` may overwrite ``old`` entry by entry in the nest that reads it last."""
    if old is None or not lives[old].in_place or old.size != new.size:
        return False
    return _written_in_place(new, place, plan)


def _yields(slot: _Slot, buffer: Buffer, life: _Life, plan: Plan) -> bool:
    """Whether scratch in an output is done with when the output's own value is written."""
    assert slot.limit is not None
    if life.end < slot.limit:
        return True
    return (
        life.end == slot.limit
        and life.in_place
        and buffer.size == slot.buffer.size
        and _written_in_place(slot.buffer, slot.limit, plan)
    )


def _written_in_place(buffer: Buffer, place: int, plan: Plan) -> bool:
    item = plan.items[place]
    tasks = [task for task in item.tasks if _writes(task, buffer)]
    return isinstance(item, Nest) and all(
        task.kind == "store"
        and not task.accumulate
        and task.dest is not None
        and _walks(task.dest, item.domain)
        for task in tasks
    )


def _writes(task: Task, buffer: Buffer) -> bool:
    return task.dest is not None and task.dest.buffer is buffer
