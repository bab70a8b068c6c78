"""What a random solution is compared with, where every library draws a Brownian path of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndereg.bench.job import Answer


@dataclass(frozen=True)
class Strong:
    """The exact solution on the path that the solver was driven by.

    Attributes
    ----------
    solution : callable
        ``solution(W) -> y``, of the increment of the path over the span.
    """

    solution: Callable[[Any], Any]

    def error(self, answer: Answer) -> float:
        """Root of the mean square of the relative deviation; nan where the path is not told."""
        if answer.driving is None:
            return float("nan")
        exact = np.asarray(self.solution(np.asarray(answer.driving, np.float64)))
        relative = np.asarray(answer.y1, np.float64).reshape(exact.shape) / exact - 1.0
        return float(np.sqrt(np.mean(relative**2)))


@dataclass(frozen=True)
class Law:
    """The law of the solution: independent samples of a normal number.

    Attributes
    ----------
    statistic : callable
        From the solution to that number, of every sample.
    mean, variance : float
    allowed : float
        Standard errors that the sample mean and variance may be off.

    Examples
    --------
    >>> from ndereg.bench.job import Work
    >>> values = np.random.default_rng(0).normal(size=1000)
    >>> Law(np.array, 0.0, 1.0).error(Answer(values, Work(None))) < 3.0
    True
    """

    statistic: Callable[[Any], Any]
    mean: float
    variance: float
    allowed: float = 5.0

    def error(self, answer: Answer) -> float:
        """How many standard errors mean or variance of the samples are off, the worse of both."""
        values = np.ravel(self.statistic(np.asarray(answer.y1, np.float64)))
        count = len(values)
        mean = (np.mean(values) - self.mean) / np.sqrt(self.variance / count)
        variance = (np.var(values, ddof=1) / self.variance - 1.0) / np.sqrt(2.0 / count)
        return float(max(abs(mean), abs(variance)))
