"""Fields without a framework: traced once to a graph, from which code and derivatives are made."""

from ndereg.trace.errors import TraceError
from ndereg.trace.evaluate import evaluate
from ndereg.trace.graph import Graph, Node
from ndereg.trace.tracer import trace

__all__ = ["Graph", "Node", "TraceError", "evaluate", "trace"]
