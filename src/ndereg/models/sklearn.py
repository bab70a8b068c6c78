"""Neural ODEs as estimators of scikit-learn, trained with NumPy and Numba."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ndereg.models.dense import Affine
from ndereg.models.mlp import MLP
from ndereg.models.neural_ode import NeuralODE as Description
from ndereg.models.numpy import NeuralODE, equal_batches
from ndereg.models.validation import choice, real, size, sizes

SECONDS_TO_COMPILE = 10.0
"""What compiling a solve and its gradient takes."""


def seconds_to_interpret(steps: int, entries: int) -> float:
    """Estimate how long the reference backend trains.

    Measured on small perceptrons: it needs 5 ms a step for its Python, and 2.5 µs an entry of the
    batch's state.
    """
    return steps * (5e-3 + 2.5e-6 * entries)


class _NeuralODEEstimator(BaseEstimator):
    """What classifier and regressor share."""

    def __init__(
        self,
        hidden: tuple[int, ...] = (16,),
        *,
        activation: str = "tanh",
        augmentation: int = 0,
        t1: float = 1.0,
        method: str = "tsit5",
        rtol: float = 1e-3,
        atol: float = 1e-3,
        regularizer: Any = None,
        penalty_weight: Any = 1.0,
        learning_rate: float = 0.05,
        max_iter: int = 100,
        batch_size: int = 64,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        backend: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.augmentation = augmentation
        self.t1 = t1
        self.method = method
        self.rtol = rtol
        self.atol = atol
        self.regularizer = regularizer
        self.penalty_weight = penalty_weight
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.backend = backend
        self.random_state = random_state

    def _described(self, inputs: int, outputs: int) -> Description:
        width = inputs + self.augmentation
        hidden = sizes("hidden", self.hidden)
        return Description(
            MLP((width, *hidden, width), self.activation),
            head=Affine(width, outputs),
            t_span=(0.0, real("t1", self.t1)),
            augmentation=self.augmentation,
            method=self.method,
            rtol=self.rtol,
            atol=self.atol,
        )

    def _train(self, X: np.ndarray, targets: np.ndarray, loss: str) -> None:
        """Fit the standardized inputs to targets of shape (samples, outputs)."""
        size("max_iter", self.max_iter)
        size("n_iter_no_change", self.n_iter_no_change)
        tol = real("tol", self.tol, least=0.0)
        self.offset_ = X.mean(axis=0)
        spread = X.std(axis=0)
        self.scale_ = np.where(spread > 0, spread, 1.0).astype(X.dtype)
        layer = self._described(X.shape[1], targets.shape[1])
        seed = int(check_random_state(self.random_state).randint(2**31))
        model = NeuralODE(
            layer, seed=seed, dtype=X.dtype, backend=self._backend(X), regularizer=self.regularizer
        )
        weight = self.penalty_weight if self.regularizer is not None else 0.0
        best, waited = np.inf, 0
        self.loss_curve_: list[float] = []
        for value in model.epochs(
            self._standardized(X), targets, loss=loss, epochs=self.max_iter, seed=seed,
            batch_size=self.batch_size, learning_rate=self.learning_rate, penalty_weight=weight,
        ):  # fmt: skip
            self.loss_curve_.append(value)
            waited = 0 if value < best - tol else waited + 1
            best = min(best, value)
            if waited >= self.n_iter_no_change:
                break
        self.model_ = model
        self.n_iter_ = len(self.loss_curve_)

    def _backend(self, X: np.ndarray) -> str:
        """Return what trains sooner, where the user leaves it to us."""
        backend = choice("backend", self.backend, ("auto", "numba", "reference"))
        if backend != "auto":
            return backend
        batches, rows = equal_batches(len(X), self.batch_size)
        steps = self.max_iter * batches
        entries = rows * (X.shape[1] + self.augmentation)
        interpreted = seconds_to_interpret(steps, entries) <= SECONDS_TO_COMPILE
        return "reference" if interpreted else "numba"

    def _standardized(self, X: np.ndarray) -> np.ndarray:
        return ((X - self.offset_) / self.scale_).astype(X.dtype)

    def _outputs(self, X: Any) -> np.ndarray:
        """Return outputs of the model; every sample has its own steps, whatever else is in ``X``.

        So a prediction does not depend on the samples beside it.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return self.model_.predict(self._standardized(X), batch="independent", regularizer=None)


class NeuralODEClassifier(ClassifierMixin, _NeuralODEEstimator):
    """A classifier: features flow along a neural ODE, then an affine head gives logits.

    Features are standardized, then solved from 0 to ``t1`` by a perceptron with time as an input.
    Every sample of a prediction has its own steps, so a prediction does not depend on the other
    samples.

    Parameters
    ----------
    hidden : tuple of int
        Widths between the ends of the field.
    activation : str
        One of tanh, relu, gelu, silu, softplus, sigmoid, elu, lipswish.
    augmentation : int
        Zeros appended to the features.
    t1 : float
        Length of the span.
    method : str
        A name of ndereg's catalogue.
    rtol, atol : float
        Tolerances.
    regularizer : ndereg.Regularizer, optional
        Such as ``ndereg.ErrorEstimate()``, which makes predictions cheaper.
    penalty_weight : float, or callable of the step such as ``ndereg.ExponentialDecay``
        Of the regularizer in the objective.
    learning_rate : float
        Of Adam.
    max_iter : int
        Most epochs.
    batch_size : int
        Most samples a step.
    tol, n_iter_no_change : float, int
        Training ends when ``n_iter_no_change`` epochs in a row have not lowered the best loss by
        ``tol``.
    backend : {"auto", "numba", "reference"}
        ``"reference"`` interprets, which spares the seconds of compiling on small data;
        ``"auto"`` estimates which is done sooner.
    random_state : int, RandomState or None
        Of initial weights and batches.

    Attributes
    ----------
    classes_ : array
        Labels.
    model_ : ndereg.models.numpy.NeuralODE
        The trained model, on standardized features.
    offset_, scale_ : array
        Of the features.
    loss_curve_ : list of float
        Of every epoch.
    n_iter_ : int
        Epochs.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> X, y = make_moons(100, noise=0.1, random_state=0)
    >>> classifier = NeuralODEClassifier(augmentation=1, random_state=0).fit(X, y)
    >>> classifier.score(X, y) > 0.9
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train on features ``(samples, features)`` and labels ``(samples,)``."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        self._train(X, np.eye(len(self.classes_), dtype=X.dtype)[codes], "cross_entropy")
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return probabilities, shape (samples, classes)."""
        logits = self._outputs(X).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest labels, shape (samples,)."""
        best = self._outputs(X).argmax(axis=1)
        return self.classes_[best]


class NeuralODERegressor(MultiOutputMixin, RegressorMixin, _NeuralODEEstimator):
    """A regressor: features flow along a neural ODE, then an affine head gives the targets.

    Features and targets are standardized. See :class:`NeuralODEClassifier` for the parameters and
    the attributes.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> regressor = NeuralODERegressor(random_state=0).fit(X, X[:, 0] * X[:, 1])
    >>> regressor.score(X, X[:, 0] * X[:, 1]) > 0.8
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train on features ``(samples, features)`` and targets ``(samples,)`` or 2-d."""
        X, y = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True
        )
        self._flat_targets = y.ndim == 1
        targets = y.reshape(len(y), -1).astype(np.float64)
        self.target_offset_ = targets.mean(axis=0)
        spread = targets.std(axis=0)
        self.target_scale_ = np.where(spread > 0, spread, 1.0)
        scaled = (targets - self.target_offset_) / self.target_scale_
        self._train(X, scaled.astype(X.dtype), "squared_error")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the targets, in the shape that they were given in."""
        outputs = self._outputs(X)
        found = (outputs * self.target_scale_ + self.target_offset_).astype(outputs.dtype)
        return found[:, 0] if self._flat_targets else found
