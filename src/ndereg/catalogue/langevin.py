"""Methods for underdamped Langevin dynamics.

In published notation ``alpha = gamma h``, and for a fraction ``theta`` of the step
``beta = exp(-theta alpha)``, ``a = (1 - beta) / gamma``, ``b = (beta + theta alpha - 1) / (gamma^2
h)``; ``chh`` and ``ckk`` are the weights of the space-time and space-time-time Levy areas in the
position. Here they are written by moments, which is the same and does not cancel.
"""

from __future__ import annotations

from dataclasses import replace

from ndereg.spec.langevin import Coefficient, Form, LangevinMethod, Operand, decay, moment
from ndereg.spec.tableau import Number

__all__ = ["ENTRIES"]

_ONE = Coefficient((((0, 0), 1),))
_HALF = 0.5


def _a(theta: Number = 1) -> Coefficient:
    """``(1 - beta) / gamma``."""
    return (theta * moment(0, theta)).times_h


def _b(theta: Number = 1) -> Coefficient:
    """``(beta + theta alpha - 1) / (gamma^2 h)``."""
    return (0.5 * theta**2 * (moment(0, theta) + moment(1, theta))).times_h


_AA = moment(0)
"""``a / h``."""
_CHH = (moment(0) - moment(2)).times_h
"""``6 (beta (alpha + 2) + alpha - 2) / (alpha^2 gamma)``."""
_CHH_GAMMA = 6 * moment(1)
_CKK = (-6 * (moment(1) - moment(3))).times_h
"""``60 (beta (alpha (alpha + 6) + 12) - alpha (alpha - 6) - 12) / (alpha^3 gamma)``."""
_CKK_GAMMA = -60 * moment(2)
_CHH_HALF = (
    0.75 * ((2 / 3) * moment(0, _HALF) + 0.5 * moment(1, _HALF) - (1 / 6) * moment(2, _HALF))
).times_h
"""``6 (beta_half (alpha + 2) + alpha^2 / 4 - 2) / (alpha^2 gamma)``."""


def _form(**weights: Coefficient) -> Form:
    return tuple((_OPERANDS[name], weight) for name, weight in weights.items())


_OPERANDS: dict[str, Operand] = {
    name: name
    for name in ("x", "v", "f1", "f2", "f3", "W", "H", "K")  # type: ignore[misc]
}
_START = _form(x=_ONE)
_FOSTER = "Foster, Lyons, Oberhauser, arXiv:2101.03446"
_JELINCIC = "Jelincic, Foster, Kidger, arXiv:2405.06464"

_ALIGN_POSITION = _form(x=_ONE, v=_a(), f1=-1 * _b().times_h, W=_b(), H=_CHH)
_ALIGN = LangevinMethod(
    name="align",
    order=2.0,
    gradients=((0, _START), (1, _ALIGN_POSITION)),
    position=_ALIGN_POSITION,
    velocity=_form(v=decay(), f1=_b() - _a(), f2=-1 * _b(), W=_AA, H=-1 * _CHH_GAMMA),
    last=True,
    error=_form(f1=_b(), f2=-1 * _b()),
    reference=_JELINCIC,
)

_UBU = LangevinMethod(
    name="ubu",
    order=2.0,
    gradients=((_HALF, _form(x=_ONE, v=_a(_HALF), W=_b(_HALF), H=_CHH_HALF)),),
    position=_form(x=_ONE, v=_a(), f1=-1 * _a(_HALF).times_h, W=_b(), H=_CHH),
    velocity=_form(v=decay(), f1=-1 * decay(_HALF).times_h, W=_AA, H=-1 * _CHH_GAMMA),
    last=False,
    error=None,
    reference="Sanz-Serna, Zygalakis, arXiv:2104.12384",
)


def _kicked(theta: Number) -> dict[str, Coefficient]:
    """Position after a fraction of the step, ``v`` moved by ``H + 6 K`` and ``W`` by ``-12 K``."""
    a, b = _a(theta), _b(theta)
    return {"x": _ONE, "v": a, "W": b, "H": a, "K": 6 * a - 12 * b}


_LEFT, _RIGHT = 0.5 - 3**0.5 / 6, 0.5 + 3**0.5 / 6
_QUICSORT = LangevinMethod(
    name="quicsort",
    order=3.0,
    gradients=(
        (_LEFT, _form(**_kicked(_LEFT))),
        (_RIGHT, _form(**_kicked(_RIGHT), f1=-1 * _a(1 / 3).times_h)),
    ),
    position=_form(**_kicked(1), f1=-0.5 * _a(_RIGHT).times_h, f2=-0.5 * _a(_LEFT).times_h),
    velocity=_form(
        v=decay(),
        f1=-0.5 * decay(_RIGHT).times_h,
        f2=-0.5 * decay(_LEFT).times_h,
        W=_AA,
        H=decay() - _ONE,
        K=6 * decay() - 12 * _AA + 6 * _ONE,
    ),
    last=False,
    error=None,
    reference=_JELINCIC,
)

_QUICSORT_EMBEDDED = replace(
    _QUICSORT,
    name="quicsort_embedded",
    # what it would change in the velocity if the first gradient stood in the place of the second
    error=_form(f1=0.5 * decay(_LEFT).times_h, f2=-0.5 * decay(_LEFT).times_h),
)

_SHOULD_POSITION = _form(
    x=_ONE, v=_a(), f1=-(1 / 3) * _b().times_h, f2=-(2 / 3) * _b().times_h, W=_b(), H=_CHH, K=_CKK
)
_SHOULD = LangevinMethod(
    name="should",
    order=3.0,
    gradients=(
        (0, _START),
        (_HALF, _form(**_kicked(_HALF), f1=-1 * _b(_HALF).times_h)),
        (1, _SHOULD_POSITION),
    ),
    position=_SHOULD_POSITION,
    velocity=_form(
        v=decay(),
        f1=-(1 / 6) * decay().times_h,
        f2=-(2 / 3) * decay(_HALF).times_h,
        f3=-(1 / 6) * _ONE.times_h,
        W=_AA,
        H=-1 * _CHH_GAMMA,
        K=-1 * _CKK_GAMMA,
    ),
    last=True,
    error=None,
    reference=_FOSTER,
)

ENTRIES: tuple[tuple[LangevinMethod, tuple[str, ...]], ...] = (
    (_ALIGN, ()),
    (_UBU, ()),
    (_QUICSORT, ()),
    (_SHOULD, ()),
    (_QUICSORT_EMBEDDED, ()),
)
