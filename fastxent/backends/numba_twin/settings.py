"""What the modules of a twin are executed for; `load_twin` gives other values."""

# The width of the floats that are computed with.
REAL_BITS: int = 32

# What is needed: see needs.py.
CONVERTS: bool = True
PROBS: bool = True
WRITES: bool = True
SMOOTHS: bool = True
TRANSFORMS: bool = True
SECOND_ORDER: bool = True
