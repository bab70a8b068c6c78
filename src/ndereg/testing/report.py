"""What a cross-check found: a table, JSON, and a verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ndereg.testing.deviation import Row


class Disagreement(AssertionError):
    """Backends disagree by more than rounding; ``report`` has the rows."""

    def __init__(self, report: CrossCheckReport) -> None:
        super().__init__(report.verdict())
        self.report = report


@dataclass(frozen=True)
class CrossCheckReport:
    """The rows of a cross-check.

    Attributes
    ----------
    rows : tuple of Row
        One a backend, check and quantity; see :class:`ndereg.testing.Row`.
    problem : str
        What was checked, in a line.
    attempts : int
        Attempted steps of the reference's run.
    replayed : int
        Steps that were replayed, spread evenly over the accepted ones.
    left_out : tuple of (name, reason)
        Backends that are known but whose framework is not installed.
    """

    rows: tuple[Row, ...]
    problem: str
    attempts: int = 0
    replayed: int = 0
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every row is within its limit."""
        return all(row.ok for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        """Rows beyond their limit."""
        return tuple(row for row in self.rows if not row.ok)

    def raise_if_failed(self) -> None:
        """Raise a :class:`Disagreement`, an AssertionError, unless :attr:`ok`."""
        if not self.ok:
            raise Disagreement(self)

    def verdict(self) -> str:
        """Say who disagrees where, or that nobody does."""
        if self.ok:
            return f"backends agree on {self.problem}"
        lines = [f"expected the reference's numbers on {self.problem}; received others:"]
        for row in self.failures:
            where = f" at {row.place}" if row.place else ""
            note = f" ({row.note})" if row.note else ""
            lines.append(
                f"  {row.backend}, {row.check}: {row.quantity} deviates by {number(row.deviation)} "
                f"units of rounding{where}, limit {number(row.limit)}{note}"
            )
        lines.append(
            "try report.table(); a backend that disagrees in 'replay' computes another step, one "
            "that disagrees only in a run decides or reduces differently"
        )
        return "\n".join(lines)

    def table(self) -> Any:
        """Return a rich table."""
        return rows_table(self.rows, self._caption())

    def _caption(self) -> str:
        parts = [self.problem]
        if self.attempts:
            parts.append(f"{self.attempts} attempts, {self.replayed} accepted steps replayed")
        if self.left_out:
            parts.append("not installed: " + ", ".join(name for name, _ in self.left_out))
        return "; ".join(parts)

    def to_json(self) -> str:
        """Return the report as JSON; an infinite deviation is null."""
        rows = [{**asdict(row), "ok": row.ok} for row in self.rows]
        data = {
            "ok": self.ok,
            "problem": self.problem,
            "attempts": self.attempts,
            "replayed": self.replayed,
            "left_out": dict(self.left_out),
            "rows": [{key: _plain(value) for key, value in row.items()} for row in rows],
        }
        return json.dumps(data, indent=2, allow_nan=False)


def worst_rows(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Of many rows, those that deviate most, one a backend, check and quantity."""
    worst: dict[tuple[str, str, str], Row] = {}
    counts: dict[tuple[str, str, str], int] = {}
    for row in rows:
        key = (row.backend, row.check, row.quantity)
        counts[key] = counts.get(key, 0) + row.compared
        if key not in worst or row.deviation > worst[key].deviation:
            worst[key] = row
    return tuple(Row(**{**asdict(row), "compared": counts[key]}) for key, row in worst.items())


def rows_table(rows: Sequence[Row], caption: str = "") -> Any:
    """Return rows as a rich table: one line a check and quantity, one column a backend."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    backends = list(dict.fromkeys(row.backend for row in rows))
    table.add_column("check")
    table.add_column("quantity")
    table.add_column("compared", justify="right")
    table.add_column("condition", justify="right")
    for name in backends:
        table.add_column(name, justify="right")
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row.check, row.quantity), {})[row.backend] = row
    for (check, quantity), found in lines.items():
        cells = [_cell(found.get(name)) for name in backends]
        compared = max(row.compared for row in found.values())
        condition = max(row.condition for row in found.values())
        table.add_row(check, quantity, str(compared), f"{condition:.2g}", *cells)
    return table


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    return number(row.deviation) if row.ok else f"[bold red]{number(row.deviation)} ✗[/]"


def number(value: float) -> str:
    """Write a deviation."""
    if not math.isfinite(value):
        return "∞"
    return f"{value:.2g}" if value < 1000 else f"{value:.1e}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
