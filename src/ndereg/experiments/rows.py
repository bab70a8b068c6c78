"""The rows of the papers' tables: what is compared with what, and how strongly."""

from __future__ import annotations

from ndereg.experiments.recipe import Penalized
from ndereg.spec.integrand import JacobianFrobenius, Kinetic, Taylor
from ndereg.spec.regularizer import ErrorEstimate, Local, StiffnessEstimate
from ndereg.spec.steer import Steer


def published_rows(
    *, error: str, stiffness: str, local: str, taynode: str, order: int, rnode: str = "0.01"
) -> dict[str, Penalized]:
    """Return the rows of both papers for an ordinary equation over [0, 1], with their weights.

    Aggregated over the steps as in their code: a mean of the error estimates, the largest stiffness
    estimate, means of both together with the weight 10 (the text names no coefficient of the
    combination). Of RNODE nobody has published weights for these experiments; half of the kinetic
    energy is that code's. ``local-own`` is ours: one of the solve's own steps, that at an
    unbiased time, differentiated as a whole, with the weight of the error's mean.

    Parameters
    ----------
    error, stiffness, local, taynode, rnode : str
        Weights, as they are written on the command line.
    order : int
        Of TayNODE's derivative.
    """
    erroneous, stiff = ErrorEstimate(reduce="mean"), StiffnessEstimate(reduce="max")
    return {
        "none": Penalized(None),
        "error": Penalized(erroneous, error),
        "stiffness": Penalized(stiff, stiffness),
        "error+stiffness": Penalized(erroneous + 0.1 * StiffnessEstimate(reduce="mean"), "10"),
        "local-unbiased": Penalized(Local(ErrorEstimate()), local),
        "local-biased": Penalized(Local(ErrorEstimate(), sampling="biased"), local),
        "local-own": Penalized(Local(ErrorEstimate(), through_state=True, step="own"), error),
        # Of a series every output time is drawn, by at most half the distance to the next.
        "steer": Penalized(Steer(0.5)),
        "steer+error": Penalized(Steer(0.5) + erroneous, error),
        "steer+stiffness": Penalized(Steer(0.5) + stiff, stiffness),
        "taynode": Penalized(Taylor(order=order), taynode),
        "rnode": Penalized(0.5 * Kinetic() + JacobianFrobenius(), rnode),
    }
