"""A step of the method of a specification, whatever its family."""

from __future__ import annotations

from ndereg.plan.builder import Builder
from ndereg.plan.langevin import LangevinObservables, LangevinSteps, halving
from ndereg.plan.observables import Observables, record_stages
from ndereg.plan.reversible import ReversibleObservables, ReversibleStep
from ndereg.plan.stochastic import StochasticObservables, StochasticStep
from ndereg.spec.langevin import LangevinMethod
from ndereg.spec.reversible import ReversibleHeun
from ndereg.spec.spec import Spec
from ndereg.spec.stochastic import StochasticTableau
from ndereg.spec.tableau import Tableau


def record_step(builder: Builder, spec: Spec, carried: bool) -> Observables:
    """Record a step from ``y`` at ``t`` of size ``h``, and return what it offers.

    ``carried`` takes the first stage as the input ``k1``, where the method can.
    """
    tableau = spec.tableau
    if isinstance(tableau, StochasticTableau):
        assert spec.noise is not None
        return StochasticObservables(builder, tableau, StochasticStep(builder, tableau, spec.noise))
    if isinstance(tableau, ReversibleHeun):
        assert spec.noise is not None
        step = ReversibleStep(builder, spec.noise, carried)
        return ReversibleObservables(builder, tableau, step)
    if isinstance(tableau, LangevinMethod):
        return LangevinObservables(builder, tableau, LangevinSteps(builder, spec, carried))
    assert isinstance(tableau, Tableau)
    return Observables(builder, tableau, record_stages(builder, tableau, carried))


def measured(spec: Spec) -> bool:
    """Whether a recorded step knows its error; one that would be halved for it alone does not."""
    tableau = spec.tableau
    halved = isinstance(tableau, LangevinMethod) and tableau.halved
    return halving(spec) if halved else tableau.adaptive
