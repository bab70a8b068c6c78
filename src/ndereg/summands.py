"""The edge of a regularizer: its summands, sorted by what a solve does for them."""

from __future__ import annotations

import math
from typing import Any

from ndereg.spec.integrand import Integrand
from ndereg.spec.regularizer import LocalTerm, Regularizer, Term
from ndereg.spec.spec import LocalStep
from ndereg.spec.steer import Steer


def summands(
    regularizer: Any,
) -> tuple[dict[Term, float], LocalStep | None, dict[Integrand, float], Steer | None]:
    """Terms, the step that the local ones are over, integrands, and what moves the end of time.

    Each with its weight; equal summands are one.

    Raises
    ------
    TypeError, ValueError
        If it is no regularizer, or its summands do not go together.
    """
    if regularizer is None:
        return {}, None, {}, None
    if not isinstance(regularizer, Regularizer):
        raise TypeError(
            "expected regularizer to be made of ndereg.ErrorEstimate(...), "
            "ndereg.StiffnessEstimate(...), ndereg.Local(...), ndereg.Taylor(...) and the like, "
            f"received {regularizer!r}; try ndereg.ErrorEstimate()"
        )
    weights: dict[Regularizer, float] = {}
    for weight, summand in regularizer.terms():
        weights[summand] = weights.get(summand, 0.0) + weight
    for summand, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(
                f"expected finite weights in regularizer, received {weight} for {summand}; try a "
                "smaller factor"
            )
    steers = [each for each in weights if isinstance(each, Steer)]
    if len(steers) > 1:
        raise ValueError(
            f"expected one ndereg.Steer in a regularizer, received {steers}; try one with the "
            "larger b"
        )
    integrands = {each: w for each, w in weights.items() if isinstance(each, Integrand)}
    terms = {each: w for each, w in weights.items() if isinstance(each, Term)}
    return *_local_last(terms), integrands, steers[0] if steers else None


def _local_last(terms: dict[Term, float]) -> tuple[dict[Term, float], LocalStep | None]:
    """Terms over the steps, then those of a local step."""
    local = [term for term in terms if isinstance(term, LocalTerm)]
    if not local:
        return terms, None
    kinds = {(term.sampling, term.through_state, term.step) for term in local}
    if len(kinds) > 1:
        raise ValueError(
            "expected one kind of ndereg.Local in a regularizer, as there is one extra step, "
            f"received {len(kinds)} that differ in sampling, through_state or step; try "
            "ndereg.Local(a + 0.1 * b)"
        )
    ordered = {term: weight for term, weight in terms.items() if not isinstance(term, LocalTerm)}
    ordered |= {term: terms[term] for term in local}
    return ordered, LocalStep(tuple(term.term for term in local), *kinds.pop())
