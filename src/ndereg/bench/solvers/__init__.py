"""The solvers that are timed: ours, and the peers that are installed."""
