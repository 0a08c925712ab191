"""Other libraries: what the tests do where one is missing, and how they compare."""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any, NoReturn

import numpy as np
import pytest
from support import exact_softmax

Array = np.ndarray[Any, Any]


def peer(name: str) -> Any:
    """The module of that name. Where its package is not installed, see `missing`."""
    package = name.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        missing(f"not installed: {package}")
    return importlib.import_module(name)


def missing(what: str) -> NoReturn:
    """Skip the test, or the whole file; with FASTXENT_REQUIRE_PEERS=1 it is an error."""
    if os.environ.get("FASTXENT_REQUIRE_PEERS") == "1":
        pytest.fail(f"{what}, and FASTXENT_REQUIRE_PEERS=1", pytrace=False)
    pytest.skip(f"{what}; the extra 'peers' brings it", allow_module_level=True)


def assert_close(got: Any, want: Any, scale: Any) -> None:
    """|got - want| <= 8 * eps * scale, with the eps of the arrays' dtype.

    `scale` is the largest term of a sum that may cancel: a library that adds such terms up as they
    are written can promise no more than that. Half of the 8 is what fastxent allows itself.
    """
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    eps = np.finfo(want.dtype).eps
    error = np.abs(got.astype(np.longdouble) - want)
    allowed = 8 * eps * np.broadcast_to(scale, error.shape).astype(np.longdouble)
    worst = np.argmax(error - allowed)
    assert (error <= allowed).all(), f"{got.flat[worst]} is not {want.flat[worst]}"


def exact_hessian(logits: Array) -> Array:
    """The diagonal, p (1 - p), in extended precision; 1 - p is the sum of the other classes."""
    _, _, probs = exact_softmax(logits)
    others = probs @ (1 - np.eye(logits.shape[-1], dtype=np.longdouble))
    hessian: Array = probs * others
    return hessian
