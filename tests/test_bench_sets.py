"""What the benchmarks time: named sets, sizes of one's own, and the arrays and answers of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cpuinfo", reason="the extra 'bench' brings it")

from fastxent.benchmarks.draw.readme import CASES
from fastxent.benchmarks.machine import count_cpus, facts, fingerprint, on_cpus
from fastxent.benchmarks.measure import options, selection
from fastxent.benchmarks.measure.arrays import make_arrays
from fastxent.benchmarks.measure.backends import fastxent_with, instruction_set
from fastxent.benchmarks.measure.case import ALL_OPERATIONS, DTYPES, OPERATIONS, Case
from fastxent.benchmarks.measure.implementations import IMPLEMENTATIONS
from fastxent.benchmarks.measure.right_answers import check_result
from fastxent.benchmarks.measure.selection import Selection, select
from fastxent.benchmarks.measure.sets import SETS

import fastxent


def chosen(name: str | None = None, *, peers: bool = True, **lists: Sequence[str]) -> Selection:
    return select(name, lists, peers)


# ---- sets ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_set_names_only_what_exists(name: str) -> None:
    a_set = SETS[name]
    for timed in (*a_set.throughput, *a_set.with_options):
        assert set(timed.operations) <= set(ALL_OPERATIONS)
        assert set(timed.dtypes) <= set(DTYPES)
        for shape in timed.shapes:
            assert min(Case("loss", "float32", shape, 1).dimensions) > 0
    assert set(a_set.options or ()) <= set(options.NAMES)
    peers = {key for key, value in IMPLEMENTATIONS.items() if value.kind == "peer"}
    assert set(a_set.peers or ()) <= peers


@pytest.mark.parametrize("name", SETS)
def test_a_case_of_a_set_has_a_name_of_its_own_and_a_backend(name: str) -> None:
    selection = chosen(name, threads=["1,2"])
    cases = selection.throughput()
    assert len({case.test_id for case in cases}) == len({case.group for case in cases})
    assert len(set(cases)) == len(cases)
    assert all(IMPLEMENTATIONS["cython"].can_do(case) for case in cases)
    assert all(case.axis == -1 and len(case.dimensions) == 2 for case in selection.with_options())


def test_a_comparison_times_backends_alone_and_every_kind_of_call() -> None:
    selection = chosen("compare", threads=["1", "2"])
    taking_part = [
        name for name, each in IMPLEMENTATIONS.items() if selection.takes(name, each.kind)
    ]
    assert taking_part == ["cython", "numba"]
    cases = selection.throughput()
    operations = {case.operation for case in cases}
    assert {"softmax", "hvp", "grad_hess", "row_stats", "soft_loss_and_grad"} <= operations
    assert {case.dtype for case in cases} == set(DTYPES)
    # A lock around the driver shows only where Python threads call at once, with one thread each.
    [at_once] = [case for case in cases if case.operation == "loss_in_python_threads"]
    assert at_once.threads == 2
    assert selection.set.with_options
    assert list(selection.processes()) == [(1, 2)]


def test_the_full_set_has_all_that_is_asked_of_the_package() -> None:
    full, reach = (set(chosen(name, threads=["1"]).throughput()) for name in ("full", "reach"))
    assert reach < full


def test_a_set_is_narrowed_by_dtype_operation_backend_and_threads() -> None:
    selection = chosen(
        "smoke", dtype=["float16,bfloat16"], operation=["loss_and_grad"], backend=["numba"],
        threads=["2"], peers=False,
    )  # fmt: skip
    assert [(case.dtype, case.operation, case.threads) for case in selection.throughput()] == [
        ("float16", "loss_and_grad", 2),
        ("bfloat16", "loss_and_grad", 2),
    ]
    kinds = {name: each.kind for name, each in IMPLEMENTATIONS.items()}
    taking_part = {kinds[name] for name in kinds if selection.takes(name, kinds[name])}
    assert taking_part == {"backend", "roof"}
    assert not selection.takes("cython", "backend")


def test_the_numbers_of_threads_are_one_and_all_where_none_is_given() -> None:
    assert chosen("full").threads == tuple(sorted({1, fastxent.get_num_threads()}))


def test_each_number_of_threads_has_a_process_unless_starting_takes_most_of_the_time() -> None:
    assert list(chosen("full", threads=["2,1"]).processes()) == [(1,), (2,)]
    assert list(chosen("smoke", threads=["2,1"]).processes()) == [(1, 2)]


# ---- sizes of one's own --------------------------------------------------------------------------


def test_own_sizes_are_the_product_of_all_that_is_given() -> None:
    selection = chosen(
        batch=["8", "16,8"], classes=["10,1000"], dtype=["float64"],
        operation=["loss,softmax"], threads=["1,2"],
    )  # fmt: skip
    cases = selection.throughput()
    assert {case.shape for case in cases} == {"8x10", "8x1000", "16x10", "16x1000"}
    assert len(cases) == 4 * 2 * 2
    assert {case.dtype for case in cases} == {"float64"}


def test_own_sizes_are_of_float32_losses_and_gradients_where_nothing_else_is_said() -> None:
    cases = chosen(batch=["8"], classes=["10"], threads=["1"]).throughput()
    assert [(case.operation, case.dtype) for case in cases] == [
        ("loss", "float32"),
        ("loss_and_grad", "float32"),
    ]


def test_what_is_given_can_be_given_again() -> None:
    selection = chosen(batch=["8"], classes=["10,20"], dtype=["float16"], peers=False)
    assert selection.given == ("--batch=8", "--classes=10,20", "--dtype=float16", "--no-peers")
    assert chosen("smoke", backend=["cython"]).given == ("--set", "smoke", "--backend=cython")


@pytest.mark.parametrize(
    ("name", "lists", "message"),
    [
        ("fast", {}, "--set: there is no set 'fast'; there are smoke, standard, full, readme"),
        ("full", {"batch": ["8"]}, "--set full has its own sizes: leave out --batch and --classes"),
        (None, {"batch": ["8"]}, "--batch alone is no size: --classes must be given, too"),
        (None, {"classes": ["8"]}, "--classes alone is no size: --batch must be given, too"),
        ("full", {"dtype": ["int8"]}, "--dtype must be one of float32, float16, bfloat16, float64"),
        ("full", {"operation": ["l"]}, "--operation must be one of loss, .*, not 'l'"),
        ("full", {"backend": ["jax"]}, "--backend must be one of cython, numba, not 'jax'"),
        ("full", {"threads": ["1,"]}, "--threads has an empty value: give one, or several"),
        *(
            ("full", {"threads": [text]}, f"--threads must be integers of at least 1, not '{text}'")
            for text in ("0", "-1", "two", "1.5", "99999999999", "²")
        ),
        (None, {"batch": ["8"], "classes": ["0"]}, "--classes must be integers of at least 1"),
        ("options", {"dtype": ["float16"]}, "nothing of the set 'options' is selected by --dtype"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_possible(
    name: str | None, lists: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select(name, lists, peers=True)


def test_a_backend_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastxent, "available_backends", lambda: ("numba",))
    with pytest.raises(ValueError, match="'cython' is not available in"):
        chosen("smoke", backend=["cython"])


def test_a_size_beyond_the_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "available_memory", lambda: 10**9)
    chosen(batch=["1000"], classes=["1000"]).check_memory()
    too_large = chosen(batch=["100000"], classes=["1000"])
    with pytest.raises(ValueError, match=r"loss float32 100000x1000 .* takes about 2.4 GB .* 1.0"):
        too_large.check_memory()
    replace(too_large, peers=False, operations=("loss",)).check_memory()  # 0.8 GB


# ---- arrays and answers --------------------------------------------------------------------------


def test_large_arrays_repeat_no_row() -> None:
    logits, _ = make_arrays(Case("loss", "float32", "4096x1024", 1))
    assert logits.size > 2 << 20  # more than is drawn
    assert len(np.unique(logits[:, :4], axis=0)) == len(logits)
    assert abs(float(logits.mean())) < 0.02
    assert float(logits.std()) == pytest.approx(3, rel=0.01)
    assert not logits.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities_of_a_row_add_up_to_1(dtype: str) -> None:
    _, labels = make_arrays(Case("soft_loss_and_grad", dtype, "2048x1024", 1))
    np.testing.assert_allclose(labels.astype(np.float64).sum(axis=1), 1, rtol=1e-2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("operation", ALL_OPERATIONS)
def test_every_operation_is_checked(operation: str, threads: int) -> None:
    """The right answer passes, and one in which a single number is wrong does not."""
    case = Case(operation, "float32", "33x70", threads)
    call = fastxent_with("cython")(case, *make_arrays(case))
    result = call()
    check_result(case, result)
    for wrong in wrong_answers(result):
        with pytest.raises(AssertionError):
            check_result(case, wrong)


def wrong_answers(result: Any) -> list[Any]:
    if isinstance(result, fastxent.RowStats):
        return [result._replace(losses=result.losses * 1.001)]
    if isinstance(result, tuple):
        return [
            (*result[:i], part, *result[i + 1 :])
            for i in range(len(result))
            for part in wrong_answers(result[i])
        ]
    if not isinstance(result, np.ndarray):
        return [result * 1.001]
    wrong = result.copy()
    wrong.flat[np.abs(wrong).argmax()] *= 1.01
    return [wrong]


def test_other_libraries_take_no_part_in_what_only_fastxent_does() -> None:
    for name, each in IMPLEMENTATIONS.items():
        if each.kind == "peer":
            assert set(each.operations) <= set(OPERATIONS), name


@pytest.mark.parametrize("name", options.NAMES)
def test_every_option_changes_the_result(name: str) -> None:
    case = Case("loss", "float32", "33x70", 1)
    plain, with_option = (options.call_with(each, case, "cython")() for each in ("plain", name))
    assert (plain == with_option) == (name == "plain")


# ---- the machine ---------------------------------------------------------------------------------


def test_a_fingerprint_depends_on_the_machine_and_not_on_its_load() -> None:
    found = facts()
    assert found["cpus"] == count_cpus()
    assert found["cpu"]
    same = {**found, "load": 7.5, "governor": "powersave", "memory": 1}
    assert fingerprint(found) == fingerprint(same)
    for other in ({"cpu": "another"}, {"cpus": 1000}, {"caches": {"L1d": 1}}):
        assert fingerprint({**found, **other}) != fingerprint(found)
    assert fingerprint({**found, "instruction_sets": ["none"]}) != fingerprint(found)
    assert " " not in fingerprint(found)


def test_instruction_sets_are_named_for_both_backends() -> None:
    config = fastxent.show_config(mode="dicts")
    assert config is not None
    assert instruction_set("cython") == config["backends"]["cython instruction set"]
    assert instruction_set("numba")


def test_processes_started_on_one_cpu_may_use_one() -> None:
    before = count_cpus()
    with on_cpus(1) as granted:
        assert granted == count_cpus() == 1
    assert count_cpus() == before


def test_the_set_readme_times_what_the_tables_of_speed_show() -> None:
    timed = {key for each in SETS["readme"].throughput for key in each.combinations()}
    assert timed == set(CASES)
