"""Fields without a framework: traced once to a graph, from which code and derivatives are made."""

from ndereg.trace.errors import TraceError
from ndereg.trace.evaluate import evaluate
from ndereg.trace.graph import Graph, Node
from ndereg.trace.samples import per_sample
from ndereg.trace.tracer import trace
from ndereg.trace.vjp import Linearized, linearize

__all__ = [
    "Graph",
    "Linearized",
    "Node",
    "TraceError",
    "evaluate",
    "linearize",
    "per_sample",
    "trace",
]
