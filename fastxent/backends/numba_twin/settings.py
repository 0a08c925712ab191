"""What the modules of a twin are executed for; `load_twin` gives other values."""

# The width of the floats that are computed with.
REAL_BITS: int = 32
# Whether there are smoothing, temperatures, soft caps, and outputs of second order.
HAS_OPTIONS: bool = True
