"""Timing beside the peers: one job, several solvers, their work counted before it is timed."""
