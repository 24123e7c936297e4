"""Measurements, each run from the project's root as a module: `python -m bench.run`, `.core`, `.depth`, `.latency`.

Rule: a figure in docs/benchmarks.md was written there by one of these, with the machine and the spread beside it.
"""
