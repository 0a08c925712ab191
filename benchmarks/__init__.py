"""Benchmarks: `pytest benchmarks/`, then `summarise.py`; or all that is asked: `reach.py`."""
