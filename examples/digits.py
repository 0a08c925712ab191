"""Logistic regression on real scans of digits, with fastxent's loss and gradient.

    python examples/digits.py
    python examples/digits.py --backend numba
    python examples/digits.py --save-logits FOLDER

SciPy's L-BFGS minimises the objective below. scikit-learn's LogisticRegression has the same
objective, so both must find the same minimum; the script exits with 1 where they do not.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, minimize
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import fastxent

Array = np.ndarray[Any, Any]
N_CLASSES = 10
PENALTY = 1e-3


def unpack(parameters: Array) -> tuple[Array, Array]:
    """The optimiser's flat vector as weights (n_pixels, n_classes) and intercept (n_classes,)."""
    matrix = parameters.reshape(-1, N_CLASSES)
    return matrix[:-1], matrix[-1]


def objective(
    parameters: Array, pixels: Array, labels: Array, backend: str | None = None
) -> tuple[float, Array]:
    """Mean cross-entropy + PENALTY / 2 * sum of squared weights, and its gradient.

    As in scikit-learn, the penalty leaves the intercept alone.
    """
    weights, intercept = unpack(parameters)
    logits = pixels @ weights + intercept
    # The gradient takes the place of the logits: they are not needed again.
    loss, grad_logits = fastxent.cross_entropy_with_grad(
        logits, labels, backend=backend, out=logits
    )
    value = float(loss + PENALTY / 2 * np.sum(weights**2))
    # The chain rule, through logits = pixels @ weights + intercept.
    grad_weights = pixels.T @ grad_logits + PENALTY * weights
    grad_intercept = grad_logits.sum(axis=0)
    return value, np.concatenate([grad_weights.ravel(), grad_intercept])


def fit(pixels: Array, labels: Array, backend: str | None) -> Array:
    """The parameters that minimise the objective; prints it as it falls."""
    iteration = 0

    def report(intermediate_result: OptimizeResult) -> None:
        nonlocal iteration
        iteration += 1
        if iteration.bit_count() == 1:  # 1, 2, 4, 8, ...
            print(f"{iteration:9d}  {intermediate_result.fun:.9f}")

    start = np.zeros((pixels.shape[1] + 1) * N_CLASSES)
    print("iteration  objective")
    print(f"{0:9d}  {objective(start, pixels, labels, backend)[0]:.9f}")
    result = minimize(
        objective,
        start,
        args=(pixels, labels, backend),
        method="L-BFGS-B",
        jac=True,
        callback=report,
        options={"maxiter": 10_000, "maxfun": 20_000, "gtol": 1e-7, "ftol": 0.0},
    )
    print(f"{iteration:9d}  {result.fun:.9f}")
    parameters: Array = result.x
    return parameters


def fit_sklearn(pixels: Array, labels: Array) -> Array:
    """The parameters that scikit-learn finds."""
    # Its objective is ours times C * n_rows, where C = 1 / (PENALTY * n_rows).
    model = LogisticRegression(C=1 / (PENALTY * len(labels)), tol=1e-7, max_iter=10_000)
    model.fit(pixels, labels)
    return np.concatenate([model.coef_.T.ravel(), model.intercept_])


def predict(parameters: Array, pixels: Array) -> Array:
    """The most likely class of each row."""
    weights, intercept = unpack(parameters)
    predictions: Array = np.argmax(pixels @ weights + intercept, axis=1)
    return predictions


def main(arguments: list[str] | None = None) -> int:
    """Fit with both, print both, and return 1 where they disagree."""
    parser = argparse.ArgumentParser(description="Logistic regression on scans of digits.")
    parser.add_argument("--backend", choices=["cython", "numba"], default=None)
    parser.add_argument(
        "--save-logits", type=Path, metavar="FOLDER", help="write the test scans' logits and labels"
    )
    given = parser.parse_args(arguments)
    backend: str = given.backend or fastxent.get_backend()

    digits = load_digits()
    pixels, test_pixels, labels, test_labels = train_test_split(
        digits.data / 16.0,  # the scans hold 0 to 16
        digits.target,
        test_size=0.25,
        stratify=digits.target,
        random_state=0,
    )

    # The first call loads the backend; the Numba one also compiles, which takes some seconds.
    start = time.perf_counter()
    objective(np.zeros((pixels.shape[1] + 1) * N_CLASSES), pixels, labels, backend)
    print(f"backend {backend}, first call {time.perf_counter() - start:.3f} s")

    start = time.perf_counter()
    ours = fit(pixels, labels, backend)
    our_seconds = time.perf_counter() - start

    start = time.perf_counter()
    theirs = fit_sklearn(pixels, labels)
    their_seconds = time.perf_counter() - start

    print("\n              objective    test accuracy  seconds")
    for name, parameters, seconds in (
        ("fastxent", ours, our_seconds),
        ("scikit-learn", theirs, their_seconds),
    ):
        value, _ = objective(parameters, pixels, labels, backend)
        accuracy = np.mean(predict(parameters, test_pixels) == test_labels)
        print(f"{name:12}  {value:.9f}  {accuracy:13.4f}  {seconds:7.3f}")

    if given.save_logits is not None:
        weights, intercept = unpack(ours)
        logits = (test_pixels @ weights + intercept).astype(np.float32)
        np.save(given.save_logits / "digits_logits.npy", logits)
        np.save(given.save_logits / "digits_labels.npy", test_labels.astype(np.uint8))

    gap = abs(
        objective(ours, pixels, labels, backend)[0] - objective(theirs, pixels, labels, backend)[0]
    )
    n_different = int(np.sum(predict(ours, test_pixels) != predict(theirs, test_pixels)))
    agree = gap <= 1e-6 and n_different == 0
    print(
        f"\n{'They agree' if agree else 'They DISAGREE'}: objectives {gap:.1e} apart, "
        f"{n_different} of {len(test_labels)} predictions different"
    )
    return 0 if agree else 1


if __name__ == "__main__":
    raise SystemExit(main())
