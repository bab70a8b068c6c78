"""Programs as the mathematics they stand for."""

from __future__ import annotations

from fractions import Fraction

from ndereg.plan.program import (
    Apply,
    Combine,
    Contract,
    Evaluate,
    Instruction,
    Join,
    Mean,
    Number,
    Outer,
    Part,
    Program,
    Pullback,
    Slot,
    Spread,
)

_INFIX = {"add": "+", "sub": "−", "mul": "·", "div": "/", "lt": "<", "le": "≤", "eq": "=",
          "and": "and", "or": "or"}  # fmt: skip
_CALLS = {"safe_div": "{} / {} (0 if 0)", "neg": "−{}", "abs": "|{}|", "unit": "{0} / |{0}|",
          "sqrt": "√{}", "log": "log {}", "floor": "⌊{}⌋",
          "square": "{}²", "pow": "{}^{}", "where": "{1} if {0} else {2}",
          "not": "not {}", "isfinite": "{} is finite", "max": "max({}, {})",
          "min": "min({}, {})"}  # fmt: skip


def render(program: Program) -> str:
    """One line an instruction, aligned at the equals sign."""
    rows = [_row(instruction) for instruction in program.body]
    width = max((len(left) for left, _ in rows), default=0)
    arguments = ", ".join(_name(slot) for slot, _ in program.inputs)
    results = ", ".join(
        _name(slot) if name == slot else f"{_name(name)}: {_name(slot)}"
        for name, slot in program.outputs
    )
    lines = [f"{program.name} ({arguments}) → ({results})"]
    lines += [f"    {left:<{width}} {right}" for left, right in rows]
    return "\n".join(lines)


def _row(instruction: Instruction) -> tuple[str, str]:
    dst = _name(instruction.dst)
    match instruction:
        case Combine(base=base, terms=terms):
            return dst, "= " + _combination(base, terms)
        case Evaluate(c=c, scale=scale, src=src, field=field):
            function = "f" if field == "drift" else "g"
            return dst, f"= {function}({_time(c, scale)}, {_name(src)})"
        case Contract(diffusion=diffusion, noise=noise):
            return dst, f"= {_name(diffusion)} {'1' if noise is None else _name(noise)}"
        case Outer(state=state, noise=noise):
            return dst, f"= {_name(state)} {_name(noise)}ᵀ"
        case Pullback(map=map_, cotangent=cotangent):
            return f"{dst}, ā", f"+= {_name(map_)}ᵀ {_name(cotangent)}"
        case Mean(src=src):
            return dst, f"= mean({_name(src)})"
        case Spread(src=src):
            return dst, f"= {_name(src)} / n"
        case Part(src=src, index=index):
            return dst, f"= {_name(src)}[{index}]"
        case Join(parts=parts):
            shown = ["0" if part is None else _name(part) for part in parts]
            return dst, f"= ({', '.join(shown)})"
        case Apply(op=op, srcs=srcs):
            shown = [_name(src) if isinstance(src, str) else _number(src) for src in srcs]
            if op in _INFIX:
                return dst, f"= {shown[0]} {_INFIX[op]} {shown[1]}"
            return dst, "= " + _CALLS[op].format(*shown)


def _combination(base: Slot | None, terms: tuple[tuple[Slot | None, Number, Slot], ...]) -> str:
    groups: dict[Slot | None, list[str]] = {}
    for scale, coefficient, slot in terms:
        sign = "−" if coefficient < 0 else "+"
        size = "" if abs(coefficient) == 1 else _number(abs(coefficient)) + " "
        groups.setdefault(scale, []).append(f"{sign} {size}{_name(slot)}")
    parts = [] if base is None else ["+ " + _name(base)]
    for scale, shown in groups.items():
        if scale is None:
            parts += shown
        elif len(shown) == 1:
            parts.append(f"{shown[0][:2]}{_name(scale)} {shown[0][2:]}")
        else:
            parts.append(f"+ {_name(scale)} ({_unsigned(' '.join(shown))})")
    return _unsigned(" ".join(parts))


def _unsigned(text: str) -> str:
    return text[2:] if text.startswith("+ ") else "−" + text[2:] if text.startswith("− ") else text


def _time(c: Number, scale: Slot) -> str:
    if c == 0:
        return "t"
    return f"t + {_name(scale)}" if c == 1 else f"t + {_number(c)} {_name(scale)}"


def _number(value: object) -> str:
    if isinstance(value, Fraction):
        text = str(value)
        return text if len(text) <= 16 else f"{float(value):.10g}"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _name(slot: Slot) -> str:
    stem, _, tail = slot.partition("_bar")
    shown = stem[0] + "\u0304" + stem[1:] + tail if "_bar" in slot else slot
    return shown.replace("_map", "′")
