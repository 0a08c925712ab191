"""The README's form, and the digits in its table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from conformance.peers import missing
from fastxent.verify.adapters import ADAPTERS, adapter, is_installed

import fastxent

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    "python -m pip install '.[verify]' && fastxent verify",
    "python -m pip install '.[test]' && pytest",
]
FIRST_SCREEN = 45  # lines


def digits(beginning: str) -> list[str]:
    """The cells of a row of digits: fastxent, the best other library, PyTorch."""
    rows = re.findall(rf"^\| digits: {re.escape(beginning)}.*\|$", README, re.MULTILINE)
    assert len(rows) == 1
    return [cell.strip() for cell in rows[0].split("|")[2:-1]]


def errors_on_the_page_of_peers(case: str) -> dict[str, str]:
    """The errors of a case in float32, by implementation, as docs/peers.md has them."""
    page = (ROOT / "docs" / "peers.md").read_text("utf-8")
    heading, row = (
        re.search(rf"^\| {first} \|(.*)\|$", page, re.MULTILINE) for first in ("float32", case)
    )
    assert heading is not None
    assert row is not None
    names, cells = ([cell.strip() for cell in found[1].split("|")] for found in (heading, row))
    return dict(zip(names, cells, strict=True))


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert README.count("\n") <= 180


def test_each_use_has_a_section_of_its_own() -> None:
    sections = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert sections[:3] == [
        "Import it",
        "Verify a loss: this one, or yours",
        "Track its speed in CI",
    ]


def test_the_first_screen_has_the_table_and_the_commands() -> None:
    screen = "\n".join(README.splitlines()[:FIRST_SCREEN])
    assert re.findall(r"^```sh\n(.*)\n```$", screen, re.MULTILINE) == COMMANDS
    assert screen.index("<!-- speed: begin -->\n|") < screen.index("|\n<!-- speed: end -->")


def test_there_is_one_table_of_speed_and_digits() -> None:
    assert README.count("<!-- speed: begin -->") == README.count("<!-- speed: end -->") == 1
    table = README.partition("<!-- speed: begin -->\n")[2].partition("<!-- speed: end -->")[0]
    # A line of another kind, an empty one too, would end the table on the page.
    assert all(line.startswith("|") for line in table.splitlines())


def test_the_loss_of_a_confident_row_is_what_the_table_says() -> None:
    ours, others, pytorch = digits("loss of `[40, 0]`, label 0, which is 4.248354e-18")
    assert f"{np.log1p(np.exp(-40.0)):.6e}" == "4.248354e-18"
    loss = fastxent.cross_entropy(np.array([[40, 0]], np.float32), np.array([0]))
    assert f"{loss:.6e}" == ours
    assert others == pytorch == "0"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("library", ADAPTERS)
def test_other_libraries_lose_a_confident_row(library: str, dtype: type) -> None:
    if not is_installed(library):
        missing(f"not installed: {library}")
    implementation = adapter(library)
    options = {"n_threads": 1} if "n_threads" in implementation.options else {}
    losses, gradient = implementation.with_grad(
        np.array([[40, 0]], dtype), np.array([0]), **options
    )
    assert float(losses[0]) == 0
    assert float(gradient[0][0]) == 0


@pytest.mark.parametrize(
    ("row", "case"), [("largest error, random", "gaussian"), ("largest error, a trained", "digits")]
)
def test_the_largest_errors_are_those_of_the_page_of_peers(row: str, case: str) -> None:
    errors = errors_on_the_page_of_peers(case)
    ours, other, pytorch = digits(row)
    backends = [errors.pop("cython"), errors.pop("numba")]
    assert ours == f"{max(backends, key=float)} ULP"
    assert pytorch == f"{errors.pop('torch')} ULP"
    best = min(errors, key=lambda name: float(errors[name]))
    assert other.startswith(f"{errors[best]} ULP")
    assert other in (f"{errors[best]} ULP {best}", f"{errors[best]} ULP")
