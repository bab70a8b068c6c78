"""The weight of a regularizer over training, as it is written on the command line."""

from __future__ import annotations

import math
from collections.abc import Callable

from ndereg.spec.schedule import Constant, ExponentialDecay, InverseDecay, NFEBudget

SCHEDULES = ("exponential", "inverse", "constant")


def parse_weight(text: str, schedule: str, steps: int) -> Callable[[float], float] | NFEBudget:
    """Read ``"VALUE"`` (constant) or ``"START:END"`` into a schedule over ``steps`` steps.

    ``"START:END:STEPS"`` arrives after ``STEPS`` steps and stays. ``"nfe:TARGET"`` and
    ``"nfe:TARGET:START"`` are budgets: weights that follow the evaluations.

    Parameters
    ----------
    text : str
        With ``schedule="inverse"`` the second number is the decay a step, not the end.
    schedule : {"exponential", "inverse", "constant"}
        What ``START:END`` means; ``"constant"`` allows no ``END``, and only ``"exponential"``
        allows ``STEPS``.
    steps : int
        Length of the training.

    Examples
    --------
    >>> parse_weight("2.5:1.0", "exponential", 100)
    ExponentialDecay(start=2.5, end=1.0, steps=100)
    >>> parse_weight("2.5:1.0:60", "exponential", 100)
    ExponentialDecay(start=2.5, end=1.0, steps=60)
    >>> parse_weight("0.03", "exponential", 100)
    Constant(value=0.03)
    >>> parse_weight("nfe:40:2.5", "exponential", 100).target
    40.0
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"expected a schedule among {', '.join(SCHEDULES)}, received {schedule!r}")
    kind, _, rest = text.partition(":")
    try:
        numbers = [float(part) for part in (rest if kind == "nfe" else text).split(":")]
    except ValueError:
        numbers = []
    if kind == "nfe":
        if len(numbers) not in (1, 2):
            raise ValueError(
                f"expected a budget as nfe:TARGET or nfe:TARGET:START, received {text!r}; try "
                "nfe:40"
            )
        return _budget(text, *numbers)
    if any(not 0 <= number < math.inf for number in numbers):
        raise ValueError(f"expected weights >= 0, received {text!r}; try 2.5")
    if len(numbers) == 1:
        return Constant(numbers[0])
    lengths = {"exponential": (2, 3), "inverse": (2,), "constant": ()}[schedule]
    if len(numbers) not in lengths:
        form = ", ".join(["VALUE", "START:END", "START:END:STEPS"][: 1 + len(lengths)])
        raise ValueError(
            f"expected a weight as {form} or nfe:TARGET, received {text!r}; try 2.5, or nfe:40 for "
            "a weight that is adapted until a prediction takes 40 evaluations"
        )
    start, second, *given = numbers
    if schedule == "inverse":
        return InverseDecay(start, rate=second)
    if not (start and second):
        ends = [number or 1e-3 * (start or second or 1.0) for number in (start, second)]
        raise ValueError(
            "expected START and END above 0, between which a weight moves by a constant factor a "
            f"step, received {text!r}; try {ends[0]:g}:{ends[1]:g}"
        )
    length = given[0] if given else float(steps)
    if not (length.is_integer() and length >= 1):
        raise ValueError(
            f"expected a whole number of steps >= 1 in START:END:STEPS, received {text!r}; try "
            f"{start:g}:{second:g}:{max(1, round(length))}"
        )
    return ExponentialDecay(start, second, steps=int(length))


def _budget(text: str, target: float, start: float = NFEBudget.start) -> NFEBudget:
    if not 0 < target < math.inf:
        raise ValueError(f"expected TARGET > 0 in nfe:TARGET, received {text!r}; try nfe:40")
    smallest, largest = NFEBudget.smallest, NFEBudget.largest
    if not smallest <= start <= largest:
        raise ValueError(
            f"expected START from {smallest:g} to {largest:g} in nfe:TARGET:START, received "
            f"{text!r}; try nfe:{target:g}:1"
        )
    return NFEBudget(target, start)
