"""Benchmarks: `pytest benchmarks/`, then `python benchmarks/summarise.py results.json`."""
