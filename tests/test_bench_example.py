"""The example of tracking the speed of another project, run as that project would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "track_speed"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy that knows nothing of this checkout, its pyproject.toml included."""
    pytest.importorskip("pytest_benchmark", reason="the extra 'bench' brings it")
    return Path(shutil.copytree(EXAMPLE, tmp_path / "project"))


def measure(folder: Path, *arguments: str) -> dict[str, float]:
    """The medians by name, of `pytest --benchmark-only` in a folder."""
    results = folder / "results.json"
    command = ("-m", "pytest", *arguments, "--benchmark-only", f"--benchmark-json={results}")
    quick = ("--benchmark-max-time=0.01", "--benchmark-min-rounds=2", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, *command, *quick],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(results.read_text())
    return {each["name"]: each["stats"]["median"] for each in written["benchmarks"]}


def test_the_project_measures_its_own_training_step(project: Path) -> None:
    medians = measure(project, "test_speed.py")
    assert set(medians) == {
        f"test_training_step[{batch}-{n_words}]" for batch in (32, 256) for n_words in (10, 1000)
    }
    assert all(median > 0 for median in medians.values())


def test_the_benchmark_fails_where_the_step_does_nothing(project: Path) -> None:
    model = project / "word_model.py"
    source = model.read_text()
    update = "        self.matrix -= np.float32(rate) * (hidden.T @ grad_logits)\n"
    assert update in source
    model.write_text(source.replace(update, ""))
    with pytest.raises(AssertionError, match="test_training_step"):
        measure(project, "test_speed.py")
