"""Namespaces of the array API by operands; no framework is imported, an array brings its own."""

from typing import Any

from array_api_compat import array_namespace, is_numpy_array

_NAMESPACES: dict[type, Any] = {}
"""Namespaces by the type of the operands; to ask every time would cost more than a small tensor's
operation does."""


def namespace_of(*operands: Any) -> Any:
    """Return the functions of the framework whose arrays the operands are, numbers among them.

    NumPy arrays may be mixed with those of another framework, whose namespace it then is.
    """
    kind = type(operands[0])
    if any(type(x) is not kind for x in operands):
        return _mixed(*operands)
    found = _NAMESPACES.get(kind)
    if found is None:
        found = _NAMESPACES[kind] = _mixed(*operands)
    return found


def _mixed(*operands: Any) -> Any:
    arrays = [x for x in operands if not isinstance(x, (bool, int, float, complex))]
    others = [x for x in arrays if not is_numpy_array(x)]
    return array_namespace(*(others or arrays or operands))
