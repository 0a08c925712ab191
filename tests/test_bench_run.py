"""`pytest benchmarks` and `fastxent bench run`: what they measure, keep and refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark", reason="the extra 'bench' brings it")

ROOT = Path(__file__).parent.parent
FEW = "cython and 32x100 and softmax"
SMALL_OWN = ("--batch=8", "--classes=10", "--operation=loss", "--backend=cython", "--no-peers")
SMALL_SET = ("--set=smoke", "--backend=cython", "--threads=1", "--dtype=float32")


def run(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *command],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )


def run_pytest(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A few benchmarks of the set smoke, where the options say nothing else."""
    command = ("-m", "pytest", str(ROOT / "benchmarks"), "-q", "-p", "no:cacheprovider")
    few = () if {"--batch", "-k"} & set(options) else ("-k", FEW)
    chosen = () if "--batch" in options else ("--set", "smoke")
    return run(folder, *command, *chosen, *few, *options, **env)


def bench_run(folder: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-m", "fastxent", "bench", "run", *options, **env)


# ---- pytest-benchmark ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results as another machine, or another version of the benchmarks, would have them."""
    folder = tmp_path_factory.mktemp("results")
    done = run_pytest(folder, "--threads", "1", "--benchmark-json=new.json")
    assert done.returncode == 0, done.stdout
    results = json.loads((folder / "new.json").read_text())
    results["machine_info"] |= {"node": "another", "fastxent": {"fastxent is in": "/elsewhere"}}
    (folder / "old.json").write_text(json.dumps(results))
    return folder


def test_facts_of_the_installation_are_none_of_the_machine(old_results: Path) -> None:
    results = json.loads((old_results / "new.json").read_text())
    assert "fastxent" not in results["machine_info"]
    assert "versions" in results["commit_info"]["fastxent"]


def test_parameters_are_kept_as_numbers_and_text(old_results: Path) -> None:
    results = json.loads((old_results / "new.json").read_text())
    assert results["benchmarks"][0]["params"] == {
        "operation": "softmax",
        "dtype": "float32",
        "shape": "32x100",
        "threads": 1,
        "implementation": "cython",
    }
    assert "UNSERIALIZABLE" not in json.dumps(results)


def test_results_are_compared_with_those_of_another_installation(
    tmp_path: Path, old_results: Path
) -> None:
    compared = f"--benchmark-compare={old_results / 'old.json'}"
    done = run_pytest(tmp_path, "--threads", "1", compared)
    assert done.returncode == 0, done.stdout
    assert "INTERNALERROR" not in done.stdout
    assert "(NOW)" in done.stdout


def test_results_are_compared_in_the_root_without_what_the_tests_need(
    tmp_path: Path, old_results: Path
) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'hypothesis'\", name='hypothesis')"
    (tmp_path / "hypothesis.py").write_text(missing)
    files = [str(old_results / name) for name in ("old.json", "new.json")]
    command = ("-m", "pytest_benchmark", "compare", *files)
    done = run(ROOT, *command, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "softmax" in done.stdout


def test_every_benchmark_of_the_set_smoke_runs_once_without_timing(tmp_path: Path) -> None:
    # With Cython, which starts at once; the other backend and peers have the same benchmarks.
    done = run_pytest(tmp_path, "-k", "cython or roof", "--benchmark-disable", "--threads=1,2")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


def test_a_benchmark_keeps_what_its_time_depends_on(old_results: Path) -> None:
    results = json.loads((old_results / "new.json").read_text())
    entry = results["benchmarks"][0]
    info = entry["extra_info"]
    assert entry["name"] == "test_a_right_answer_in_time[32x100-float32-1thread-softmax-cython]"
    assert entry["group"] == "softmax float32 32x100 1thread"
    assert {"cpu", "load", "instruction_set", "kind", "operation", "dtype"} < set(info)
    assert (info["implementation"], info["threads"], info["logits"]) == ("cython", 1, 3200)
    assert info["bytes"] == 2 * 4 * 3200
    median = entry["stats"]["median"]
    assert info["GB/s"] == pytest.approx(info["bytes"] / median / 1e9, rel=0.01)
    assert info["logits/s"] == pytest.approx(info["logits"] / median, rel=0.01)
    assert results["machine"]["fingerprint"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "fast"), "--set: there is no set 'fast'; there are smoke"),
        (("--threads=0",), "--threads must be integers of at least 1, not '0'"),
        (("--batch", "8"), "--batch alone is no size: --classes must be given, too"),
        (("--dtype=int8",), "--dtype must be one of float32, float16, bfloat16, float64"),
        (("--benchmark-compare=old.json",), "--benchmark-compare: there is no file old.json"),
        (("--benchmark-compare=/no/file/here",), "--benchmark-compare: there is no file /no/fil"),
    ],
)
def test_what_is_wrong_is_one_message(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    done = run_pytest(tmp_path, *options)
    assert done.returncode == 4
    errors = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert errors[0].startswith(f"ERROR: {message}")
    assert "Traceback" not in done.stdout + done.stderr


def test_nothing_selected_is_an_error(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "-k", "nobody")
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "ERROR: nothing is selected: the set has no such benchmark" in done.stdout


def test_benchmarks_say_what_is_wrong_with_the_environment(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, FASTXENT_NUM_THREADS="many")
    assert done.returncode == 4
    assert "ERROR: FASTXENT_NUM_THREADS='many' is not a number of threads" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# ---- fastxent bench run --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What `bench run` printed, and its results."""
    folder = tmp_path_factory.mktemp("run")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *identity, *words], cwd=folder, check=True)
    more = ("--batch", "9", "--threads=1", "--json", "results.json")
    done = bench_run(folder, *SMALL_OWN, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((folder / "results.json").read_text())


def test_run_times_own_sizes_and_the_roofs(own_run: tuple[str, dict[str, Any]]) -> None:
    printed, results = own_run
    backends = [
        (entry["extra_info"]["shape"], entry["extra_info"]["implementation"])
        for entry in results["benchmarks"]
        if entry["extra_info"]["kind"] == "backend"
    ]
    assert backends == [("8x10", "cython"), ("9x10", "cython")]
    assert {entry["extra_info"]["kind"] for entry in results["benchmarks"]} == {"backend", "roof"}
    assert "loss float32 9x10 1thread" in printed
    assert "1 thread, in a process that may use 1 CPU" in printed


def test_run_keeps_what_repeats_it_and_what_is_installed(
    own_run: tuple[str, dict[str, Any]],
) -> None:
    _, results = own_run
    command = "fastxent bench run --batch 8 --batch 9 --classes 10 --operation loss"
    assert results["command"] == f"{command} --backend cython --threads 1 --no-peers"
    assert results["libraries"]["scikit-learn"] == version("scikit-learn")
    # of the checkout it was run in; a history names it
    assert len(results["commit_info"]["id"]) == 40
    assert "versions" in results["commit_info"]["fastxent"]


def test_run_keeps_the_machine_and_the_share_of_the_roof(
    own_run: tuple[str, dict[str, Any]],
) -> None:
    _, results = own_run
    ours = [e["extra_info"] for e in results["benchmarks"] if e["extra_info"]["kind"] == "backend"]
    assert all(info["of_roof"] > 0 for info in ours)
    assert results["machine"]["cpus"] == len(os.sched_getaffinity(0))  # and not those of the run
    assert results["not_measured"] == {"failed": {}, "skipped": {}}


def test_run_shows_what_options_cost(tmp_path: Path) -> None:
    done = bench_run(tmp_path, *SMALL_SET, "--no-peers", "--operation=loss", "--json=results.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Time with options / time of the plain call" in done.stdout
    benchmarks = json.loads((tmp_path / "results.json").read_text())["benchmarks"]
    timed = {e["extra_info"]["options"]: e for e in benchmarks if "options" in e["extra_info"]}
    assert set(timed) == {"class_weight", "z_loss"}
    info = timed["z_loss"]["extra_info"]
    ratio = timed["z_loss"]["stats"]["median"] / info["plain_median"]
    assert info["of_plain"] == pytest.approx(ratio, abs=1e-3)


def test_a_wrong_answer_fails_the_run_and_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import fastxent\nfastxent.softmax = lambda logits, out=None, **settings: out * 0\n"
    )
    operations = "--operation=softmax,log_softmax"
    done = bench_run(
        tmp_path, *SMALL_SET, "--no-peers", operations, "--json=results.json",
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    [failed] = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    name = "test_a_right_answer_in_time[32x100-float32-1thread-softmax-cython]"
    assert failed.startswith(f"FAILED {name}: AssertionError")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["not_measured"]["failed"]) == [name]
    assert any(e["extra_info"]["operation"] == "log_softmax" for e in results["benchmarks"])


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    options = (*SMALL_OWN, "--threads=1,2", "--json=results.json")
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "fastxent", "bench", "run", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    ) as process:
        assert process.stdout is not None
        begun = 0
        for line in process.stdout:
            begun += line.startswith("  0 of")
            if begun == 2:  # the process with one thread has ended, that with two has started
                process.send_signal(signal.SIGINT)
                break
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted: this is what processes that had ended measured" in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert {entry["extra_info"]["threads"] for entry in results["benchmarks"]} == {1}


def test_a_missing_library_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in ('sklearn', 'torch') "
        "else found(name, *rest)\n"
    )
    done = bench_run(
        tmp_path, *SMALL_SET, "--operation=loss", PYTHONPATH=str(tmp_path),
        FASTXENT_REQUIRE_PEERS="",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    skipped = [line for line in done.stdout.splitlines() if line.startswith("skipped")]
    assert skipped == [
        f"skipped, 2 of them: not installed: {name}; the extra 'peers' brings it"
        for name in ("sklearn", "torch")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--json no/folder", "no/folder cannot be written: there is no folder"),
        ("--json .", ". cannot be written: it is a folder"),
        ("--set fast", "--set: there is no set 'fast'; there are smoke, standard"),
        ("--threads 1,two", "--threads must be integers of at least 1, not 'two'"),
        ("--threads 4097", "--threads: each thread needs a CPU of its own, and 4097 are more"),
        ("--batch 9999999 --classes 9999999", "loss float32 9999999x9999999 1thread takes about"),
    ],
)
def test_run_says_what_is_wrong_before_it_measures(
    tmp_path: Path, options: str, message: str
) -> None:
    done = bench_run(tmp_path, *options.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastxent bench run: error: {message}")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["FASTXENT_ISA", "FASTXENT_BACKEND", "FASTXENT_NUM_THREADS"])
def test_run_says_what_is_wrong_with_the_environment(tmp_path: Path, name: str) -> None:
    done = bench_run(tmp_path, "--set", "smoke", **{name: "nonsense"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"fastxent bench run: error: {name}='nonsense'" in done.stderr
