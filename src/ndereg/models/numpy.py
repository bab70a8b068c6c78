"""Models as plain objects on NumPy and Numba, which train without a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ndereg.backends.registry import load_backend
from ndereg.models.differentiation import Differentiated
from ndereg.models.losses import loss_function
from ndereg.models.neural_ode import NeuralODE as Description
from ndereg.models.optimizers import Adam
from ndereg.models.parameters import Parameters, flatten, map_leaves, stream, unflatten
from ndereg.models.validation import instance, real, size
from ndereg.solution import Solution
from ndereg.solve import Face

Loss = str | Callable[[Any, Any], Any]


class NeuralODE:
    """A :class:`ndereg.models.NeuralODE` with its weights, on NumPy arrays.

    Parameters
    ----------
    layer : ndereg.models.NeuralODE
        The description.
    params : dict, optional
        Nested, of NumPy arrays; drawn from ``seed`` if absent.
    seed : int
        The same seed gives the same numbers on every framework.
    dtype : dtype
        Of parameters that are drawn.
    backend : {"numba", "reference"}
        ``"reference"`` interprets, which saves compiling where there is little to compute.
    **options
        Of ``solve``, for every call: ``regularizer``, ``adjoint``, ``batch``, ...

    Attributes
    ----------
    layer, params, options
        As given; :meth:`fit` replaces ``params``.

    Examples
    --------
    >>> import ndereg
    >>> import numpy as np
    >>> from ndereg.models import MLP, Affine, NeuralODE as Description
    >>> model = NeuralODE(
    ...     Description(MLP((2, 8, 2)), head=Affine(2, 1), rtol=1e-3, atol=1e-3),
    ...     backend="reference",
    ...     regularizer=ndereg.ErrorEstimate(),
    ... )
    >>> x = np.random.default_rng(0).normal(size=(32, 2)).astype("float32")
    >>> history = model.fit(x, x[:, :1] * x[:, 1:], epochs=5, penalty_weight=0.1)
    >>> history[-1] < history[0], model.predict(x).shape
    (True, (32, 1))
    """

    def __init__(
        self,
        layer: Description,
        params: Parameters | None = None,
        *,
        seed: int = 0,
        dtype: Any = "float32",
        backend: str = "numba",
        **options: Any,
    ) -> None:
        self.layer = instance("layer", layer, Description, "NeuralODE(field)")
        given = layer.init(seed, dtype) if params is None else params
        layer.check(given)
        self.params = map_leaves(np.asarray, given)
        self.options = options
        self.backend = backend
        self._face = Face(load_backend(backend))
        self._encode = Differentiated(layer.encode)
        self._decode = Differentiated(layer.decode)

    def __call__(self, x: Any, *, return_solution: bool = False, **options: Any) -> Any:
        """Return the output, or ``(output, solution)``; see :meth:`predict`."""
        return self.predict(x, return_solution=return_solution, **options)

    def predict(self, x: Any, *, return_solution: bool = False, **options: Any) -> Any:
        """Return the output, or ``(output, solution)``.

        Parameters
        ----------
        x : array
            The input; it is converted to the dtype of the parameters.
        return_solution : bool
            Return the solution too, with ``penalty`` and ``stats``.
        **options
            Of ``solve``, for this call.
        """
        chosen = {**self.options, **options}
        output, solution = self.layer.run(self._face, self._input(x), self.params, **chosen)
        return (output, solution) if return_solution else output

    def vjp(
        self, x: Any, **options: Any
    ) -> tuple[np.ndarray, Solution, Callable[..., tuple[np.ndarray, Parameters]]]:
        """Return the output, the solution, and the pullback to input and parameters.

        Parameters
        ----------
        x : array
            The input.
        **options
            Of ``solve``, for this call.

        Returns
        -------
        output : array
        solution : Solution
        pullback : callable
            ``pullback(output_bar, penalty_bar=0.0) -> (x_bar, params_bar)``.
        """
        layer, params = self.layer, self.params
        y0, encoder_pullback = self._encode(self._input(x), params)
        chosen = layer.options(**{**self.options, **options})
        field = params.get("field", {})
        solution, solve_pullback = self._face.solve_vjp(
            layer.field, layer.t_span, y0, field, **chosen
        )
        output, head_pullback = self._decode(solution.ys, params)

        def pullback(output_bar: Any, penalty_bar: Any = 0.0) -> tuple[np.ndarray, Parameters]:
            ys_bar, params_bar = head_pullback(output_bar)
            y0_bar, field_bar = solve_pullback(ys_bar, penalty_bar=penalty_bar)
            x_bar, encoder_bar = encoder_pullback(y0_bar)
            params_bar = map_leaves(np.add, params_bar, encoder_bar)
            if "field" in params_bar:
                params_bar["field"] = map_leaves(np.add, params_bar["field"], field_bar)
            return x_bar, params_bar

        return output, solution, pullback

    def gradients(
        self,
        x: Any,
        y: Any,
        loss: Loss = "squared_error",
        penalty_weight: float = 1.0,
        **options: Any,
    ) -> tuple[float, Parameters]:
        """Return a loss and its gradient by the parameters.

        Parameters
        ----------
        x, y : array
            Input and target.
        loss : {"squared_error", "cross_entropy"} or callable
            ``loss(output, y) -> array ()``, written with :mod:`ndereg.ops`.
        penalty_weight : float
            What ``solution.penalty`` (its mean over the samples of an independent batch) is
            multiplied by and added with; ``regularizer`` says what it is, without one it is 0.
        **options
            Of ``solve``, for this call.

        Returns
        -------
        value : float
            Of loss and penalty together.
        gradient : dict
            In the structure of ``params``.
        """
        return self._gradients(x, y, Differentiated(loss_function(loss)), penalty_weight, options)

    def _gradients(
        self, x: Any, y: Any, loss: Differentiated, weight: float, options: dict[str, Any]
    ) -> tuple[float, Parameters]:
        output, solution, pullback = self.vjp(x, **options)
        target = np.asarray(y)
        if target.dtype.kind == "f":
            target = target.astype(output.dtype, copy=False)
        if target.shape != output.shape:
            raise ValueError(
                f"expected targets in the shape of the output, {output.shape}, received "
                f"{target.shape}; try y[:, None], or one-hot labels"
            )
        value, loss_pullback = loss(output, target)
        output_bar, _ = loss_pullback(np.ones((), value.dtype))
        samples = np.size(solution.penalty)
        _, gradient = pullback(output_bar, np.asarray(weight / samples))
        return float(value) + weight * float(np.mean(solution.penalty)), gradient

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        loss: Loss = "squared_error",
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-2,
        penalty_weight: float | Callable[[int], float] = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> list[float]:
        """Minimize a loss by Adam, starting from ``params`` and replacing them.

        Parameters
        ----------
        x, y : array
            Inputs and targets, one a row.
        loss : {"squared_error", "cross_entropy"} or callable
            As in :meth:`gradients`.
        epochs : int
            Passes over the data. Each shuffles them into batches of equal size, as there is then
            one shape to compile for; the few rows that are left over sit the epoch out.
        batch_size : int
            Most rows a step.
        learning_rate : float
            Of Adam.
        penalty_weight : float, or callable of the step such as ``ndereg.ExponentialDecay``
            As in :meth:`gradients`.
        seed : int
            Of the shuffling.
        **options
            Of ``solve``, for every call.

        Returns
        -------
        list of float
            The mean of loss and penalty over each epoch.
        """
        return list(
            self.epochs(
                x, y, loss=loss, epochs=epochs, batch_size=batch_size, seed=seed,
                learning_rate=learning_rate, penalty_weight=penalty_weight, **options,
            )
        )  # fmt: skip

    def epochs(
        self,
        x: Any,
        y: Any,
        *,
        loss: Loss = "squared_error",
        epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-2,
        penalty_weight: float | Callable[[int], float] = 1.0,
        seed: int = 0,
        **options: Any,
    ) -> Iterator[float]:
        """Do what :meth:`fit` does, an epoch at a time: whoever iterates may stop when they like.

        Yields
        ------
        float
            The mean of loss and penalty over the epoch.
        """
        x, y = np.asarray(x), np.asarray(y)
        if not len(x) or len(x) != len(y):
            raise ValueError(
                f"expected as many targets as inputs, at least one, received {len(y)} and "
                f"{len(x)}; try arrays with one sample a row"
            )
        batches, rows = equal_batches(len(x), batch_size)
        adam = Adam(real("learning_rate", learning_rate, least=0.0))
        objective = Differentiated(loss_function(loss))
        fixed = flatten(self.params)
        flat = {name: leaf for name, leaf in fixed.items() if leaf.dtype.kind in "fc"}
        state, step = adam.init(flat), 0
        shuffle = stream(seed, "batches")
        for _ in range(size("epochs", epochs, least=0)):
            order = shuffle.permutation(len(x))
            values = []
            for batch in order[: batches * rows].reshape(batches, rows):
                weight = penalty_weight(step) if callable(penalty_weight) else penalty_weight
                value, gradient = self._gradients(
                    x[batch], y[batch], objective, float(weight), options
                )
                flat, state = adam.update(flatten(gradient), state, flat)
                self.params = unflatten({**fixed, **flat})
                values.append(value)
                step += 1
            yield float(np.mean(values))

    def _input(self, x: Any) -> np.ndarray:
        kinds = [leaf.dtype for leaf in flatten(self.params).values() if leaf.dtype.kind == "f"]
        return np.asarray(x, kinds[0]) if kinds else np.asarray(x)


def equal_batches(rows: int, batch_size: int) -> tuple[int, int]:
    """Return how many batches an epoch has, and the rows of each.

    Examples
    --------
    >>> equal_batches(100, batch_size=64)
    (2, 50)
    """
    batches = -(-rows // size("batch_size", batch_size))
    return batches, rows // batches
