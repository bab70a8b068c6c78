"""What belongs to another framework, or holds the arrays of one: the words of a refusal."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MIXED = re.compile(
    r"must be Tensor, not (?!float|int|bool|complex|list|tuple|NoneType)|"  # those of PyTorch
    r"is not a valid JAX type|as a JAX value|as an abstract array|"  # those of JAX
    r"numpy\(\) on Tensor|device type tensor to numpy|"  # those of NumPy
    r"__array__\(\) was called on traced|"
    r"unsupported operand type\(s\) for .*"
    r"(?:(?:ndarray|ArrayImpl|Tracer).*Tensor|Tensor.*(?:ndarray|ArrayImpl|Tracer))"
)
MIXED = (
    "A function or an array of another framework met the arrays of the field; try the functions of "
    "ndereg.ops, which compute on the arrays of every face, or those of the framework that the "
    "face is of: numpy, torch or jax.numpy."
)


def is_mixed(error: Exception) -> bool:
    """Whether an error says that a framework was handed what is no array of its own.

    Examples
    --------
    >>> is_mixed(TypeError("tanh(): argument 'input' (position 1) must be Tensor, not ndarray"))
    True
    """
    return _MIXED.search(str(error)) is not None


@dataclass(frozen=True)
class Expectation:
    """What a backend takes as an array, in words.

    Attributes
    ----------
    arrays : str
    convert : str
        The function that makes one.
    module : str
        What to try, continuing "try", with a module or a function that is given as ``args``.
    """

    arrays: str
    convert: str
    module: str

    def refusal(self, value: object, what: str, holds_arrays: bool = False) -> TypeError:
        """Return the error for a value that is no array.

        ``holds_arrays`` is whether arrays may be found inside of it, as in a module.
        """
        kind = type(value)
        if not holds_arrays:
            advice = (
                f"{self.convert}({what}), or the face of ndereg for the framework the array "
                "belongs to"
            )
        elif what.startswith("args"):
            advice = self.module
        else:
            advice = "a dict, tuple or list of the arrays in it"
        return TypeError(
            f"expected {what} to be {self.arrays}, received {kind.__module__}.{kind.__qualname__}; "
            f"try {advice}"
        )
