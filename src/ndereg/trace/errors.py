"""What cannot be traced, and where in the user's source it stands."""

from __future__ import annotations

import linecache
import os
import sys
from traceback import walk_tb
from types import FrameType

import numpy as np

__all__ = ["TraceError", "UnknownFunctionError", "locate", "source_line"]


class TraceError(TypeError):
    """A field does something that cannot be traced.

    The message names the operation, the line of the field it stands on, and what to try instead.

    Parameters
    ----------
    operation : str
        What was attempted, as the user would write it.
    reason : str
        Why it cannot be traced.
    advice : str
        What to try.
    """

    def __init__(self, operation: str, reason: str, advice: str) -> None:
        where = source_line()
        super().__init__(
            f"cannot trace {operation}: {reason}; try {advice}"
            + (f"\n  at {where}" if where else "")
        )
        self.operation = operation


class UnknownFunctionError(TraceError, AttributeError):
    """A function that the namespace of traced arrays does not have.

    Also an AttributeError, so that ``hasattr(xp, name)`` answers as for any namespace.
    """


def _library_folders() -> tuple[str, ...]:
    here = os.path.dirname(os.path.abspath(__file__))
    numpy_folder = os.path.dirname(os.path.abspath(np.__file__))
    return (here + os.sep, numpy_folder + os.sep)


_FOLDERS = _library_folders()
_FILES = (os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "ops.py"),)
_PACKAGES = ("array_api_compat", "array_api_extra", "scipy")


def _is_library(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return path.startswith(_FOLDERS) or path in _FILES or package in _PACKAGES


def source_line() -> str:
    """Return ``file:line: text`` of the innermost line outside the array libraries."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_library(frame):
        frame = frame.f_back
    return "" if frame is None else _line(frame, frame.f_lineno)


def locate(error: Exception) -> None:
    """Say in an error that the array libraries raised which line of the field led to it.

    Nothing is said of what the field raises itself, at the last line of the traceback.
    """
    frames = list(walk_tb(error.__traceback__))
    if not frames or not _is_library(frames[-1][0]):
        return
    outside = [(frame, number) for frame, number in frames if not _is_library(frame)]
    if not outside:
        return
    where = f"at {_line(*outside[-1])}"
    if error.args == (str(error),):
        error.args = (f"{error}\n  {where}",)
    else:  # an error that makes its message of something else
        error.add_note(where)


def _line(frame: FrameType, number: int) -> str:
    path = frame.f_code.co_filename
    text = linecache.getline(path, number, frame.f_globals).strip()
    return f"{path}:{number}" + (f": {text}" if text else "")
