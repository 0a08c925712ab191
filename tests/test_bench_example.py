"""The example of tracking the speed of another project, run as that project would."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
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
        env={**os.environ, "PYTHONPATH": str(folder / "src")},  # as if it were installed
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
    model = project / "src" / "word_model.py"
    source = model.read_text()
    update = "        self.matrix -= np.float32(rate) * (hidden.T @ grad_logits)\n"
    assert update in source
    model.write_text(source.replace(update, ""))
    with pytest.raises(AssertionError, match="test_training_step"):
        measure(project, "test_speed.py")


def environment_with(folder: Path, model: str) -> Path:
    """An environment with the project installed, and what this one has."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "word_model.py").write_text(model)
    shared = "; ".join(f"site.addsitedir({path!r})" for path in site.getsitepackages())
    (packages / "shared.pth").write_text(f"import site; {shared}\n")
    return folder


def test_a_change_of_the_project_is_seen(project: Path, tmp_path: Path) -> None:
    """`compare` measures what is installed in the environments, not the folder one is in."""
    source = (project / "src" / "word_model.py").read_text()
    update = "        logits = np.matmul"
    slower = source.replace(update, f"        __import__('time').sleep(0.05)\n{update}")
    assert slower != source
    old, new = (
        environment_with(tmp_path / "old", source),
        environment_with(tmp_path / "new", slower),
    )
    done = subprocess.run(
        [
            *(sys.executable, "-P", "-m", "fastxent", "bench", "compare", str(old), str(new)),
            *("--benchmarks", "test_speed.py", "-k", "32-10 and not 1000", "--blocks", "3"),
            *("--threshold", "300", "--json", "compare.json"),
        ],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads((project / "compare.json").read_text())
    verdicts = {each["name"]: each["verdict"] for each in found["benchmarks"]}
    assert verdicts == {"test_training_step[32-10]": "slower"}
