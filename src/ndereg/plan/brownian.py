"""A Brownian path and its Lévy areas from one key: what multiplies which normal number.

White noise is a sum of independent normal numbers times orthonormal functions. On the dyadic cells
of the time axis these can be piecewise polynomials (Alpert 1993, doi:10.1137/0524016): with
constants the sum is Lévy's construction of ``W``; with linear functions it is the one of ``(W, H)``
and with parabolas of ``(W, H, K)``, the midpoint rules of Jelinčič, Foster and Kidger (2024,
arXiv:2405.06464). So the values over an interval are a linear form in the numbers of the cells that
hold its ends, one or two a level, and the coefficients depend on the two times alone: no recursion,
nothing kept, and no difference of values from the start of the path, which would cancel.

Within the last cell a time falls into, the path is drawn from its exact conditional law. The joint
law at times that share no last cell is therefore exact.

Everything is a moment of the noise over the interval. With ``y = (r - (s + t) / 2) / (t - s)``::

    W = ∫ dW      H = -∫ y dW      K = ∫ (y² / 2 - 1 / 24) dW

which are the space-time and the space-time-time Lévy area (Foster, Lyons, Oberhauser 2020,
doi:10.1137/19M1261912). Chen's relation, which joins neighbouring intervals, is the translation of
a moment.

Nothing is divided by powers of a step here, and sums over short intervals have only short terms:
for ``t - s`` above the size of the last cells, ``W``, ``H`` and ``K`` are good to a few units of
rounding of ``sqrt(t - s)``, whatever the distance from the start. Rounding of the two times
themselves is not the path's, but moves it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Literal, get_args

from ndereg.plan.builder import Builder, Value, maximum, minimum, where
from ndereg.plan.normal import normal_program
from ndereg.plan.program import Number, Program

Areas = Literal["W", "WH", "WHK"]
"""What is known of an interval: the increment, and the space-time and space-time-time areas."""
MOST_LEVELS = 50
"""Deepest tree whose cells float64 numbers count and locate exactly."""
NARROW_LEVELS = 30
"""The same where times are pairs of float32 numbers and cells 32-bit integers."""
DIRECT = 1 << 30
"""Set in the first word of a node that is no cell of the tree but a step of a fixed size."""
ENDS = ("lower", "upper")
"""The ends of an interval; each is in one cell of every level."""
_VARIANCES = {"W": Fraction(1), "H": Fraction(1, 12), "K": Fraction(1, 720)}
"""Of an interval of length 1, where W, H and K are independent."""

Row = tuple[Fraction, ...]


@dataclass(frozen=True)
class Wavelet:
    """One normal number of a cell of length 1.

    Attributes
    ----------
    variance : Fraction
    left, right : tuple of Fraction
        What it adds, multiplied by its standard deviation, to W, ``h H``, ``h² K`` of the halves,
        ``h`` being their length.
    """

    variance: Fraction
    left: Row
    right: Row


def _wavelet(variance: str, left: str, right: str) -> Wavelet:
    rows = (tuple(map(Fraction, row.split())) for row in (left, right))
    return Wavelet(Fraction(variance), *rows)


WAVELETS: dict[Areas, tuple[Wavelet, ...]] = {
    "W": (_wavelet("1/4", "1", "-1"),),
    "WH": (
        _wavelet("1/16", "1 -1/4", "-1 -1/4"),
        _wavelet("1/12", "0 1/4", "0 -1/4"),
    ),
    "WHK": (
        _wavelet("1/16", "1 -1/4 0", "-1 -1/4 0"),
        _wavelet("1/768", "0 1/2 -1/8", "0 -1/2 -1/8"),
        _wavelet("1/2880", "0 0 1/4", "0 0 -1/4"),
    ),
}
"""How a cell is halved when its W, H and K stay as they are (arXiv:2405.06464, section 3)."""


@dataclass(frozen=True)
class Grid:
    """The dyadic cells of a span of time.

    Attributes
    ----------
    origin, direction : float
        Time ``t`` is at ``(t - origin) * direction`` along the path.
    size : float
        Length of the cell that is halved first: a power of two, so that the position of a time in
        its cells is found without rounding, on every backend the same.
    depth : int
        How often it is halved.
    length : float
        Of the span.
    """

    origin: Any
    direction: Any
    size: Any
    depth: int
    length: Any

    @property
    def tolerance(self) -> Any:
        """Length of the last cells."""
        return self.size * 2.0**-self.depth

    @property
    def slack(self) -> Any:
        """How far outside the span a time may be by rounding."""
        return self.tolerance * 0.5


def level_words(depth: int) -> list[tuple[int, int]]:
    """Two words for every level, to which the two of a cell's number are added.

    A node's words count the cells of all levels: 1 is the first, 2 and 3 its halves. 0 is the root,
    so that a finer tolerance leaves the times between the coarser cells as they were.
    """
    return [divmod(1 << level, 1 << 32) for level in range(depth + 1)]


def grid(t0: float, t1: float, tolerance: float) -> Grid:
    """Cells for the times between ``t0`` and ``t1``, the last ones no longer than ``tolerance``.

    Raises
    ------
    ValueError
        If the times or the tolerance are not finite, the span is empty, the tolerance is not
        positive, or is finer than what times of the span resolve.

    Examples
    --------
    >>> grid(1.0, 4.0, 0.1)
    Grid(origin=1.0, direction=1.0, size=4.0, depth=6, length=3.0)
    """
    t0, t1, tolerance = float(t0), float(t1), float(tolerance)
    length = abs(t1 - t0)
    if not math.isfinite(length) or length == 0.0:
        raise ValueError(
            f"expected a Brownian path over a finite span of time, received t0={t0}, t1={t1}; try "
            "t0=0.0, t1=1.0"
        )
    if not (0.0 < tolerance < math.inf):
        raise ValueError(
            f"expected a positive tolerance of the Brownian path, received {tolerance}; try "
            f"{length * 2.0**-12:.3g}"
        )
    mantissa, exponent = math.frexp(length)
    size = math.ldexp(1.0, exponent - 1 if mantissa == 0.5 else exponent)
    depth = max(0, math.ceil(math.log2(size / tolerance)))
    spacing = max(math.ulp(t0), math.ulp(t1))
    if depth > MOST_LEVELS or size * 2.0**-depth < 4.0 * spacing:
        smallest = max(size * 2.0**-MOST_LEVELS, 8.0 * spacing)
        raise ValueError(
            f"expected a tolerance that float64 times between {t0} and {t1} resolve, received "
            f"{tolerance}; try at least {smallest:.3g}, or times that start at 0"
        )
    return Grid(t0, 1.0 if t1 > t0 else -1.0, size, depth, length)


@dataclass(frozen=True)
class BrownianPlan:
    """The programs of a path; all inputs and outputs are scalars.

    A node is a cell, or the root: it has one normal number for each of ``areas``. The output ``H1``
    is what the number 1 of a node contributes to H, for instance.

    Attributes
    ----------
    areas : {"W", "WH", "WHK"}
    interval : Program
        ``(start_high, start_low, end_high, end_low, span, slack) -> lower_high, lower_low,
        upper_high, upper_low, length, known, sign``: an interval by increasing time. A time is a
        number ``high`` and what rounding left of it, ``low``, which is 0 where float64 is
        available. ``known`` is 1, and nan outside the ``span``; ``sign`` is also that of W and K,
        which change it against the direction of the path.
    locate : Program
        ``(high, low, rate) -> cell, carry, place, word_high, word_low``: the time is in the cell of
        number ``cell + carry``, at the fraction ``place`` of its length ``1 / rate``; ``cell`` is
        ``2^32 word_high + word_low``.
    ends : Program
        ``(lower.cell, lower.carry, lower.place, upper..., length, rate) -> same, lower.start,
        lower.end, upper.start, upper.end``: whether one cell holds both ends, and the interval as
        seen from the cells of both, in lengths of a cell.
    root : Program
        ``(lower_high, lower_low, length, rate) -> W0, ...``: weights of W, H and K of the whole,
        whose ``rate`` is that of level 0.
    split : Program
        ``(start, end, length, rate) -> W0, ...``: weights of the halving of a cell.
    leaf : Program
        ``(place, other, side, length, rate) -> W0, ...``: weights of a time within its last cell;
        ``side`` is -1 for the lower end and 1 for the upper one, ``other`` is the other end.
    direct : Program
        ``(length) -> W0, H1, K2``: standard deviations of an interval on its own.
    normal : Program
        :func:`ndereg.plan.normal.normal_program`.
    """

    areas: Areas
    interval: Program
    locate: Program
    ends: Program
    root: Program
    split: Program
    leaf: Program
    direct: Program
    normal: Program

    @property
    def weights(self) -> tuple[tuple[int, str], ...]:
        """The numbers of a node and what they contribute to, in order."""
        return tuple((number, area) for number in range(len(self.areas)) for area in self.areas)


@cache
def brownian_plan(areas: Areas) -> BrownianPlan:
    """Record the programs.

    Raises
    ------
    ValueError
        If ``areas`` is not one of ``"W"``, ``"WH"``, ``"WHK"``.
    """
    if areas not in get_args(Areas):
        raise ValueError(
            f"expected areas to be one of {', '.join(map(repr, get_args(Areas)))}, received "
            f"{areas!r}; try 'WH'"
        )
    return BrownianPlan(
        areas,
        interval=_interval_program(),
        locate=_locate_program(),
        ends=_ends_program(),
        root=_root_program(areas),
        split=_split_program(areas),
        leaf=_leaf_program(areas),
        direct=_direct_program(areas),
        normal=normal_program(),
    )


def _interval_program() -> Program:
    builder = Builder()
    start, end = (
        tuple(builder.input(f"{name}_{part}", "scalar") for part in ("high", "low"))
        for name in ("start", "end")
    )
    span, slack = builder.input("span", "scalar"), builder.input("slack", "scalar")
    length = (end[0] - start[0]) + (end[1] - start[1])
    backwards = length < 0.0
    lower = [where(backwards, b, a) for a, b in zip(start, end, strict=True)]
    upper = [where(backwards, a, b) for a, b in zip(start, end, strict=True)]
    inside = (-slack <= lower[0]) & (upper[0] <= span + slack)
    # times are rounded, and may lie before the start by that
    started = inside & (~(lower[0] < 0.0))
    known = where(inside, 1.0, math.nan)
    return builder.program(
        "interval",
        {
            "lower_high": where(started, lower[0], 0.0),
            "lower_low": where(started, lower[1], 0.0),
            "upper_high": where(inside, upper[0], 0.0),
            "upper_low": where(inside, upper[1], 0.0),
            "length": where(inside, abs(length), 0.0),
            "known": known,
            "sign": where(backwards, -known, known),
        },
    )


def _locate_program() -> Program:
    builder = Builder()
    high, low, rate = (builder.input(name, "scalar") for name in ("high", "low", "rate"))
    position = high * rate
    cell = position.floor()
    place = (position - cell) + low * rate
    carry = place.floor()
    word = (cell * 2.0**-32).floor()
    return builder.program(
        "locate",
        {
            "cell": cell,
            "carry": carry,
            "place": place - carry,
            "word_high": word,
            "word_low": cell - word * 2.0**32,
        },
    )


def _ends_program() -> Program:
    builder = Builder()
    cell, carry, place = (
        {end: builder.input(f"{end}.{name}", "scalar") for end in ENDS}
        for name in ("cell", "carry", "place")
    )
    length = builder.input("length", "scalar") * builder.input("rate", "scalar")
    # cells beyond 2^24 are no exact float32 numbers once the carry is added
    apart = (cell["upper"] - cell["lower"]) + (carry["upper"] - carry["lower"])
    same = apart.equals(0.0)
    return builder.program(
        "ends",
        {
            "same": same,
            "lower.start": place["lower"],
            "lower.end": where(same, place["upper"], place["lower"] + length),
            "upper.start": place["upper"] - length,
            "upper.end": place["upper"],
        },
    )


@dataclass(frozen=True)
class _Piece:
    """Part of an interval; its middle is ``offset`` lengths of the whole interval off."""

    length: Value
    offset: Value
    whole: Value

    def of_density(self, row: Row, middle: Value, size: float) -> list[Value | None]:
        """Expected W, H, K of the piece given those of a range of length ``size`` around it.

        Given W, H and K of a range, the expected noise is ``W - 12 H y + 30 K (12 y² - 1)`` over
        its length; the moments of that over the piece, whose middle is at ``y = middle``.
        """
        share = self.length * (1.0 / size)
        w, h, k = (*row, Fraction(0), Fraction(0))[:3]
        slope = middle * (60 * k) if k else None
        curved = None if slope is None else middle * slope * 6.0 + (share * share - 1.0) * (30 * k)
        total = _sum(curved, middle * (-12 * h) if h else None, w if w else None)
        tilt = -slope if slope is not None else None
        values = [
            share * total,
            None if not h and tilt is None else share * share * _sum(tilt, h if h else None),
            share * share * share * k if k else None,
        ]
        return values[: len(row)]

    def towards(self, values: list[Value | None]) -> list[Value | None]:
        """W, H, K of the piece as parts of those of the interval: Chen's relation."""
        share, offset = self.length / self.whole, self.offset
        w, h, k = (*values, None, None)[:3]
        quadratic = offset * offset * 0.5 + (share * share - 1.0) * (1.0 / 24.0)
        moved = [
            (w,),
            (None if h is None else share * h, None if w is None else -offset * w),
            (
                None if k is None else share * share * k,
                None if h is None else -offset * share * h,
                None if w is None else quadratic * w,
            ),
        ]
        return [_sum(*terms) if any(term is not None for term in terms) else None
                for terms in moved[: len(values)]]  # fmt: skip


def _sum(*terms: Value | Number | None) -> Any:
    """Sum of what there is; the first term is a value unless it is None."""
    total: Any = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


def _part(
    start: Value, end: Value, length: Value, lower: float, size: float
) -> tuple[Value, _Piece]:
    """Part of an interval within ``[lower, lower + size]``.

    Returned with the offset of its middle from that of the range, in lengths of the range.
    """
    first, last = maximum(start, lower), minimum(end, lower + size)
    offset = ((first - start) + (last - end)) / (length * 2.0)
    middle = ((first + last) * 0.5 - (lower + 0.5 * size)) * (1.0 / size)
    # single precision would round the difference of two places that are close to each other
    whole = (~(start < lower)) & (end <= lower + size)
    return middle, _Piece(where(whole, length, maximum(last - first, 0.0)), offset, length)


def _lengths(builder: Builder) -> tuple[Value, Value, Value]:
    """Length of the interval in cells, the same but 1 where it is 0, and root of a cell's."""
    length, rate = builder.input("length", "scalar"), builder.input("rate", "scalar")
    empty = length.equals(0.0)
    # an interval without length has no increment, and no areas
    scale = where(empty, 0.0, (1.0 / rate).sqrt())
    given = length * rate
    return given, where(empty, 1.0, given), scale


def _weights(number: int, areas: Areas, values: list[Value | None], scale: Value) -> dict[str, Any]:
    return {
        f"{area}{number}": scale * 0.0 if value is None else value * scale
        for area, value in zip(areas, values, strict=True)
    }


def _root_program(areas: Areas) -> Program:
    builder = Builder()
    given, length, scale = _lengths(builder)
    high, low, rate = (
        builder.input(name, "scalar") for name in ("lower_high", "lower_low", "rate")
    )
    start = high * rate + low * rate
    middle, piece = _part(start, start + given, length, 0.0, 1.0)
    outputs: dict[str, Any] = {}
    for number, area in enumerate(areas):
        row = tuple(Fraction(i == number) for i in range(len(areas)))
        values = piece.towards(piece.of_density(row, middle, 1.0))
        outputs |= _weights(number, areas, values, scale * math.sqrt(_VARIANCES[area]))
    return builder.program("root", outputs)


def _split_program(areas: Areas) -> Program:
    builder = Builder()
    start, end = builder.input("start", "scalar"), builder.input("end", "scalar")
    _, length, scale = _lengths(builder)
    halves = [_part(start, end, length, lower, 0.5) for lower in (0.0, 0.5)]
    outputs: dict[str, Any] = {}
    for number, wavelet in enumerate(WAVELETS[areas]):
        parts = []
        for (middle, piece), row in zip(halves, (wavelet.left, wavelet.right), strict=True):
            # the rows are W, h H and h² K with h = 1/2
            own = tuple(value * 2**power for power, value in enumerate(row))
            parts.append(piece.towards(piece.of_density(own, middle, 0.5)))
        values = [_sum(*pair) for pair in zip(*parts, strict=True)]
        outputs |= _weights(number, areas, values, scale * math.sqrt(wavelet.variance))
    return builder.program("split", outputs)


def _leaf_program(areas: Areas) -> Program:
    """The part of a last cell before an end, as far as the cell's W, H, K do not tell it.

    What lies after the lower end is what the cell has as a whole, nothing, less what lies before.
    """
    builder = Builder()
    place, other, side = (builder.input(name, "scalar") for name in ("place", "other", "side"))
    _, length, scale = _lengths(builder)
    piece = _Piece(place, other / (length * -2.0), length)
    outputs: dict[str, Any] = {}
    for number, values in enumerate(_bridge(place, areas)):
        outputs |= _weights(number, areas, piece.towards(values), scale * side)
    return builder.program("leaf", outputs)


def _bridge(a: Value, areas: Areas) -> list[list[Value | None]]:
    """W, H, K of ``[0, a]`` by each of its normal numbers, those of ``[0, 1]`` being 0.

    The Cholesky factor of the conditional covariance (arXiv:2405.06464, theorem 3.7; with H alone,
    Foster 2020, theorem 6.1.4), written so that nothing cancels and nothing is divided by a power
    of ``a`` or of ``b = 1 - a``.
    """
    b = 1.0 - a
    g, e = a * b, (a - b).square()
    if areas == "W":
        return [[g.sqrt()]]
    if areas == "WH":
        d = (e * 3.0 + 1.0) * 0.25
        root = (g / d).sqrt()
        return [
            [root * d, a * a * root * -0.5],
            [None, b * root * math.sqrt(1 / 12)],
        ]
    d, q = e * e + g * g * 4.0, (e * e * 5.0 + e * 10.0 + 1.0) * (1.0 / 16.0)
    root, cube = (g / d).sqrt(), a * a * a
    n = a * a - g * 3.0 + b * b * 6.0
    second = b * (g * q / d).sqrt() * math.sqrt(1 / 12)
    return [
        [root * d, a * a * n * root * -0.5, cube * (a - b) * root * (1.0 / 12.0)],
        [None, second, cube * a * second / (q * -2.0)],
        [None, None, b * b * (g / q).sqrt() * math.sqrt(1 / 720)],
    ]


def _direct_program(areas: Areas) -> Program:
    builder = Builder()
    root = builder.input("length", "scalar").sqrt()
    return builder.program(
        "direct",
        {
            f"{area}{number}": root * math.sqrt(_VARIANCES[area])
            for number, area in enumerate(areas)
        },
    )
