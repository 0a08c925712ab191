"""One benchmark for every option; those of a shape and operation make a group."""

from __future__ import annotations

from typing import Any

import pytest

import fastxent

from .options import OPERATIONS, SHAPES, SMOKE_SHAPES, calls, variants


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    smoke, reach, threads = map(metafunc.config.getoption, ("smoke", "reach", "threads"))
    shapes = () if reach else SMOKE_SHAPES if smoke else SHAPES
    metafunc.parametrize(
        ("shape", "operation", "options", "backend", "n_threads"),
        [
            (shape, operation, options, backend, count)
            for shape in shapes
            for operation in OPERATIONS
            for backend in fastxent.available_backends()
            for count in sorted(set(threads))
            for options in variants(*shape)
        ],
    )


def test_options_in_time(
    shape: tuple[int, int],
    operation: str,
    options: str,
    backend: str,
    n_threads: int,
    benchmark: Any,
) -> None:
    name = f"{shape[0]}x{shape[1]}"
    benchmark.group = f"options {operation} {name} {backend} {n_threads}"
    benchmark.extra_info.update(options=options, shape=name, backend=backend, threads=n_threads)
    call = calls(shape, operation, backend, n_threads)[options]
    call()
    benchmark(call)
