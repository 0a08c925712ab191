"""Reports as JSON, JUnit XML and a page: all that was found, whole, and readable by others."""

from __future__ import annotations

import errno
import html
import json
import math
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import junitparser
import matplotlib
import ml_dtypes
import numpy as np
import pytest
from fastxent.verify import verify
from fastxent.verify.bounds import Bound
from fastxent.verify.case import QUICK
from fastxent.verify.cases import cases_named
from fastxent.verify.reports.exact_text import decimal_digits, hexadecimal, shortest
from fastxent.verify.reports.html import html_text, write_html
from fastxent.verify.reports.json import json_text, write_json
from fastxent.verify.reports.junit import junit_text, write_junit
from fastxent.verify.reports.plot_parts import label
from fastxent.verify.reports.plots import make_plots
from fastxent.verify.reports.words import run_command, verdict_text
from fastxent.verify.reports.writers import check_target, printable, write_text
from fastxent.verify.result import Breach, Point, Report, Result, Worst

Writer = Callable[[Report, Path], None]
WRITERS: dict[str, Writer] = {"json": write_json, "junit": write_junit, "html": write_html}
HOSTILE = "</script><script>alert('1')</script>&\x1b[31m\ud800"


def ok(case: str, implementation: str, dtype: str = "float32", loss: float = 0.5) -> Result:
    result = Result(case, implementation, dtype, "strict", Bound(2, 4))
    result.loss = Worst(loss, 1e-7, 1e-8, loss / 2)
    result.output = Worst(1.5, 1e-7, 1e-8, 0.375)
    result.sources.add("scipy")
    result.checks.update({"exact value": 3, "bits: 2 threads": 3})
    result.judged |= {"loss", "gradient"}
    result.trusted |= {"loss", "gradient"}
    result.points += [Point(16, 10, loss, 1.0), Point(16, 1000, None, 1.5)]
    result.digest = "0123456789abcdef"
    result.seconds = 0.25
    return result


def wrong(case: str, implementation: str, *breaches: Breach) -> Result:
    result = ok(case, implementation)
    for breach in breaches:
        result.add(breach)
    return result


NOT_A_NUMBER = Breach(
    "loss error",
    3,
    f"row of {HOSTILE}",
    row=7,
    column=2,
    input=np.float32(-np.inf),
    got=np.float32(np.nan),
    want=np.longdouble(1) / 3,
    error=math.inf,
    difference=math.inf,
    allowed=1e-7,
    bound=2,
)
TOO_LARGE = Breach(
    "gradient error",
    row=0,
    column=0,
    input=ml_dtypes.bfloat16(0.1),
    got=np.float64(0.1),
    want=np.float64(0.2),
    error=1e15,
    difference=0.1,
    allowed=1e-16,
    bound=4,
)
OTHER_BITS = Breach("bits differ: 2 threads", got=np.float32(1), want=np.float32(1.0000001))
OTHER_DTYPE = Breach("bits differ: row alone", got=np.dtype("f4"), want=np.dtype("f8"))
RAISED = Breach(f"raised RuntimeError: {HOSTILE}", 1)


@pytest.fixture(scope="module")
def report() -> Report:
    """One of every kind of result."""
    left_out = Result("soft_dense", "torch", "float32", "strict")
    left_out.left_out.add("takes no probabilities")
    in_part = ok("in_place", "torch", loss=0.0)
    in_part.left_out.add("cannot work in place")
    mistrusted = ok("all_equal", "cython")
    mistrusted.trusted.clear()
    return Report(
        profile="strict",
        seed=5,
        thread_counts=(1, 2),
        results=[
            ok("gaussian", "cython"),
            ok("gaussian", "numba", loss=math.inf),
            wrong("wide", "cython", NOT_A_NUMBER, TOO_LARGE),
            wrong("wide", "numba", OTHER_BITS, OTHER_DTYPE),
            wrong("no_case_of_ours", HOSTILE, RAISED),
            mistrusted,
            left_out,
            in_part,
        ],
        notes=[f"a note of {HOSTILE}"],
        seconds=12.5,
        arguments={"cython": "--impl cython", "numba": "--impl numba", "torch": "--impl torch"},
        environment={"python": "3.11.7", "cpu": HOSTILE},
    )


@pytest.fixture(scope="module")
def page_text(report: Report) -> str:
    return html_text(report)


def commands(report: Report) -> list[str]:
    found = [report.command(result) for result in report.failed if result.is_mistrusted]
    for result in report.failed:
        found += [report.command(result, breach) for breach in result.breaches.values()]
    return found


# ---- JSON ----------------------------------------------------------------------------------------


def strictly_parsed(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    text.encode()  # lone surrogates cannot be
    return json.loads(text, parse_constant=refuse)


def test_json_is_taken_by_a_strict_parser_and_holds_everything(
    report: Report, tmp_path: Path
) -> None:
    write_json(report, tmp_path / "report.json")
    found = strictly_parsed((tmp_path / "report.json").read_text("utf-8"))
    assert found["schema"] == "fastxent.verify"
    assert found["schema_version"] == 1
    assert found["summary"] == {
        "ok": False,
        "complete": True,
        "verdict": "3 results are wrong and 1 check could not have found a fault",
        "cases": 6,
        "results": {
            "total": 8,
            "ok": 3,
            "breach": 2,
            "bits_differ": 1,
            "mistrusted": 1,
            "left_out": 1,
        },
        "peers": dict.fromkeys(
            ("total", "ok", "breach", "bits_differ", "mistrusted", "left_out"), 0
        ),
    }
    assert found["settings"]["seed"] == 5
    assert found["settings"]["thread_counts"] == [1, 2]
    assert found["settings"]["implementations"][0] == {
        "name": "cython",
        "argument": "--impl cython",
        "is_peer": False,
    }
    assert found["environment"]["python"] == "3.11.7"
    first = found["results"][0]
    assert first["errors"]["loss"] == {
        "ulp": 0.5,
        "relative": 1e-7,
        "scaled": 1e-8,
        "of_allowed": 0.25,
    }
    assert first["bound"] == {"loss": 2, "output": 4}
    assert first["checks"] == {"bits: 2 threads": 3, "exact value": 3}
    assert first["points"][1] == {"n_rows": 16, "n_classes": 1000, "loss": None, "output": 1.5}
    assert [each["verdict"] for each in found["results"]] == [
        result.verdict for result in report.results
    ]
    assert found["results"][5]["mistrusted"] == ["gradient", "loss"]
    assert found["results"][6]["left_out"] == ["takes no probabilities"]


def test_breaches_in_json_hold_exact_numbers_and_the_command(report: Report) -> None:
    found = strictly_parsed(json_text(report))
    breach, other = found["results"][2]["breaches"]
    assert breach["command"] == report.command(report.results[2], NOT_A_NUMBER)
    assert " --problem 3 " in breach["command"]
    assert breach["got"] == {"type": "float32", "shortest": "NaN", "decimal": None, "hex": None}
    assert breach["input"]["shortest"] == "-Infinity"
    assert breach["error"] == "Infinity"
    assert breach["difference"] == "Infinity"
    assert other["input"] == {
        "type": "bfloat16",
        "shortest": "0.10009765625",
        "decimal": "0.10009765625",
        "hex": "0x1.9ap-4",
    }
    assert other["got"]["decimal"] == ("0.1000000000000000055511151231257827021181583404541015625")
    assert found["results"][3]["breaches"][1]["got"] == {"type": "text", "text": "float32"}


@pytest.mark.parametrize(
    "number",
    [
        np.float16(0.1),
        np.float32(1e-45),
        np.float32(-3.4e38),
        np.float64(0.1),
        np.float64(5e-324),
        np.float64(-0.0),
        np.longdouble(1) / 3,
        -(np.longdouble(2) ** 300),
        1.5,
        7,
    ],
    ids=repr,
)
def test_a_number_is_written_exactly(number: Any) -> None:
    exact = Fraction(*map(int, number.as_integer_ratio()))
    decimal, hexadecimal_digits = decimal_digits(number), hexadecimal(number)
    assert decimal is not None
    assert hexadecimal_digits is not None
    assert Fraction(decimal) == exact
    assert type(number)(shortest(number)) == number
    mantissa, exponent = hexadecimal_digits.replace("0x", "").split("p")
    whole, _, digits = mantissa.partition(".")
    size = Fraction(int(whole + digits, 16), 16 ** len(digits)) * Fraction(2) ** int(exponent)
    assert size == exact
    assert float.fromhex(hexadecimal_digits) == float(number)


def test_numbers_that_are_not_finite_have_a_name_and_no_digits() -> None:
    names = {np.nan: "NaN", np.inf: "Infinity", -np.inf: "-Infinity"}
    for value, name in names.items():
        for make in (np.float16, np.float32, np.longdouble, ml_dtypes.bfloat16, float):
            assert shortest(make(value)) == name
            assert decimal_digits(make(value)) is None
            assert hexadecimal(make(value)) is None


def test_the_smallest_long_double_has_all_its_digits() -> None:
    smallest = np.nextafter(np.longdouble(0), np.longdouble(1))
    decimal = decimal_digits(smallest)
    assert decimal is not None
    assert len(decimal) > 700
    assert Fraction(hexadecimal(np.float64(5e-324)) == "0x1.0p-1074")


# ---- JUnit XML -----------------------------------------------------------------------------------


def test_junit_is_read_back_with_the_right_counts(report: Report, tmp_path: Path) -> None:
    write_junit(report, tmp_path / "report.xml")
    read = junitparser.JUnitXml.fromfile(str(tmp_path / "report.xml"))
    assert (read.tests, read.failures, read.errors, read.skipped) == (8, 4, 0, 1)
    suites = {suite.name: suite for suite in read}
    assert list(suites) == ["cython", "numba", printable(HOSTILE), "torch"]
    assert (suites["cython"].tests, suites["cython"].failures) == (3, 2)
    assert suites["cython"].time == pytest.approx(0.75)
    properties = {each.name: each.value for each in suites["numba"].properties()}
    assert properties["profile"] == "strict"
    assert properties["seed"] == "5"
    assert properties["threads"] == "1 2"
    assert properties["python"] == "3.11.7"


def test_junit_holds_the_full_text_of_failures_and_the_reason_of_what_was_left_out(
    report: Report,
) -> None:
    root = ElementTree.fromstring(junit_text(report))
    cases = {(each.get("classname"), each.get("name")): each for each in root.iter("testcase")}
    failure = cases["cython", "wide[float32]"].find("failure")
    assert failure is not None
    assert failure.get("type") == "BREACH"
    assert failure.get("message") == "loss error; gradient error"
    texts = "".join(each.text or "" for each in root.iter("failure"))
    for command in commands(report):
        assert command in texts
    assert "an answer of nothing but 0, NaN or one number would pass" in texts
    skipped = cases["torch", "soft_dense[float32]"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "takes no probabilities"
    in_part = cases["torch", "in_place[float32]"]
    assert in_part.find("skipped") is None
    assert in_part.findtext("system-out") == "left out in part: cannot work in place"


# ---- the page ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._inside: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attributes]
        if tag not in ("meta", "br", "input", "td", "tr", "li", "p"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("td", "tr", "li", "p"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def named(self, *names: str) -> list[str]:
        return [value for name, value in self.attributes if name in names]


def test_the_page_is_well_formed_and_every_link_leads_somewhere(page_text: str) -> None:
    page = Page(page_text)
    assert page.open == []
    assert page.tags["h1"] == page.tags["title"] == page.tags["main"] == 1
    ids = page.named("id")
    assert len(ids) == len(set(ids))
    for target in page.named("href"):
        assert target[0] == "#"
        assert target[1:] in ids
    for reference in page.named("aria-labelledby"):
        assert reference in ids
    for place in re.findall(r"url\(#([\w-]+)\)", page_text):
        assert place in ids


def test_the_page_needs_nothing_from_elsewhere(page_text: str) -> None:
    text = page_text
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert not {"link", "img", "iframe", "object", "embed", "base", "image"} & set(page.tags)
    assert page.named("src", "srcset", "data", "action") == []
    assert all(found.startswith("(#") for found in re.findall(r"url(\(..)", text))
    assert "default-src 'none'" in page.named("content")[-1]


def test_the_page_says_everything_about_a_failure(report: Report, page_text: str) -> None:
    page = Page(page_text)
    assert "3 results are wrong and 1 check could not have found a fault" in page.text
    for command in commands(report):
        assert printable(command) in page.text
    for text in (
        "loss error",
        "gradient error",
        "-Infinity (float32)",
        "NaN (float32)",
        "0.1 (float64, 0x1.999999999999ap-4)",
        "1e15 ULP",
        "bits differ: 2 threads",
        "takes no probabilities",
        "cannot work in place",
        "A standard deviation of 30",  # why the case exists
        "3.11.7",
    ):
        assert text in page.text


def test_hostile_names_stay_text(report: Report, page_text: str) -> None:
    text = page_text
    page = Page(text)
    assert page.tags["script"] == 1
    assert "alert('1')" not in text
    assert "alert('1')" in page.text
    assert "\x1b" not in text
    assert "\\x1b" in page.text
    for found in (text, junit_text(report), json_text(report)):
        found.encode()
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", found)


def test_the_page_of_a_good_run_says_so_in_words() -> None:
    good = Report("strict", 0, (1, 2), [ok("gaussian", "cython"), ok("gaussian", "numba")])
    page = Page(html_text(good))
    assert "All 2 checks are within bounds" in page.text
    assert "Failures" not in page.text
    assert "No implementation left anything out." in page.text


def test_the_page_names_what_cannot_be_repeated_by_name(page_text: str) -> None:
    assert "MODULE:FUNCTION stands for" in Page(page_text).text


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_verdict_counts_in_plain_words(number: int) -> None:
    results = [
        *(wrong("wide", f"f{i}", TOO_LARGE) for i in range(number)),
        ok("gaussian", "cython"),
    ]
    said = verdict_text(Report("strict", 0, (1,), results))
    assert (
        said
        == (
            "The one check is within bounds",
            "1 result is wrong",
            "2 results are wrong",
            "3 results are wrong",
        )[number]
    )


def test_what_is_wrong_with_a_peer_is_shown_and_fails_nothing() -> None:
    report = Report(
        "standard",
        0,
        (1,),
        [ok("wide", "cython"), wrong("wide", "torch", TOO_LARGE)],
        arguments={"cython": "--impl cython", "torch": "--impl torch"},
        peers=frozenset({"torch"}),
    )
    assert report.ok
    text = html_text(report)
    assert 'class="verdict good"' in text
    said = Page(text).text
    assert "The one check is within what profile standard allows" in said
    assert "Other libraries, only to compare with: 1 of 1 results wrong." in said
    assert commands(report)[0] in said
    summary = strictly_parsed(json_text(report))["summary"]
    assert (summary["ok"], summary["results"]["breach"], summary["peers"]["breach"]) == (True, 0, 1)
    read = junitparser.JUnitXml.fromstring(junit_text(report))
    assert (read.tests, read.failures, read.skipped) == (2, 0, 1)
    assert commands(report)[0] in junit_text(report)
    assert run_command(report).startswith("fastxent verify --peers --backend cython --profile")


def test_a_run_that_was_interrupted_says_so_everywhere_and_is_not_well() -> None:
    report = Report("strict", 0, (1,), [ok("wide", "cython")], is_complete=False)
    assert not report.ok
    said = "Interrupted after 1 check"
    assert said in Page(html_text(report)).text
    assert 'class="verdict good"' not in html_text(report)
    summary = strictly_parsed(json_text(report))["summary"]
    assert (summary["ok"], summary["complete"], summary["verdict"]) == (False, False, said)
    read = junitparser.JUnitXml.fromstring(junit_text(report))
    assert (read.tests, read.failures, read.errors) == (2, 0, 1)
    assert said in junit_text(report)
    report.results.append(wrong("wide", "numba", TOO_LARGE))
    assert verdict_text(report) == "Interrupted after 2 checks: 1 result is wrong"
    report.results.clear()
    assert verdict_text(report) == "Interrupted before anything was checked"


# ---- plots ---------------------------------------------------------------------------------------


def test_plots_name_every_implementation_and_case(report: Report) -> None:
    plots = make_plots(report)
    assert len(plots) == 3
    for plot in plots:
        svg = html.unescape(plot.svg)
        for name in ("cython", "numba", "torch"):
            assert f">{name}<" in svg
        assert label(HOSTILE) in svg
        assert plot.svg.count("<svg") == 1
        assert plot.alternative
        assert "gradient" in svg
    assert ">no_case_of_ours<" in plots[2].svg


def test_backends_alone_are_not_set_beside_each_other() -> None:
    results = [ok("gaussian", "cython"), ok("gaussian", "numba")]
    titles = [plot.title for plot in make_plots(Report("strict", 0, (1,), results))]
    assert titles == ["Error by number of classes", "Error by case"]


def test_strange_names_can_be_plotted() -> None:
    names = ["_private", "$x$", "日本語", "m" * 200, "a\nb", "", "v1.2345#010203", HOSTILE]
    results = [ok("gaussian", name) for name in names]
    page = Page(html_text(Report("standard", 0, (1,), results)))
    assert page.tags["svg"] == 3
    assert "$x$" in page.text
    assert "日本語" in page.text
    assert page.text.count("v1.2345#010203") > 4


@pytest.mark.parametrize("errors", [[0.0], [1e-30, 0.3, 1e4], [1e17, 1e300, math.inf, math.nan]])
def test_every_error_can_be_plotted(errors: list[float]) -> None:
    results = [ok(f"case_{i}", "torch", loss=error) for i, error in enumerate(errors)]
    results[0].output = None
    plots = make_plots(Report("standard", 0, (1,), [*results, ok("gaussian", "jax")]))
    assert len(plots) == 3
    assert not any(re.search(r"\b(nan|inf)\b", plot.svg) for plot in plots)


def test_plots_change_nothing_that_others_see(report: Report) -> None:
    had_pyplot = "matplotlib.pyplot" in sys.modules
    watched = ("svg.hashsalt", "svg.fonttype", "font.size", "axes.grid")
    before = [matplotlib.rcParams[name] for name in watched]
    with matplotlib.rc_context({"font.size": 30.0, "lines.linewidth": 9.0}):
        svg = make_plots(report)[0].svg
        assert matplotlib.rcParams["font.size"] == 30.0
    assert [matplotlib.rcParams[name] for name in watched] == before
    assert svg == make_plots(report)[0].svg
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_report_gives_the_same_bytes(kind: str, report: Report, tmp_path: Path) -> None:
    for name in ("a", "b"):
        WRITERS[kind](report, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_report_of_nothing_can_be_written(kind: str, tmp_path: Path) -> None:
    left_out = Result("wide", "torch", "float32", "standard")
    left_out.left_out.add("is missing")
    for results in ([], [left_out]):
        report = Report("standard", 0, (1,), results)
        WRITERS[kind](report, tmp_path / "report")
        assert verdict_text(report) == "Nothing was checked"
    if kind == "html":
        assert "Nothing was checked" in Page((tmp_path / "report").read_text("utf-8")).text


@pytest.mark.parametrize("kind", WRITERS)
def test_what_was_there_stays_when_writing_fails(
    kind: str, report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report"
    target.write_text("from before")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fastxent.verify.reports.writers.os.replace", full)
    with pytest.raises(OSError, match=r"report cannot be written: No space left on device"):
        WRITERS[kind](report, target)
    assert target.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("write", [check_target, lambda path: write_text(path, "text")])
def test_a_path_that_cannot_be_written_is_named_with_the_reason(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "folder" / "report"
    with pytest.raises(FileNotFoundError, match="report cannot be written: there is no folder"):
        write(missing)
    with pytest.raises(IsADirectoryError, match="cannot be written: it is a folder"):
        write(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file/report cannot be written: Not a directory"):
        write(tmp_path / "file" / "report")

    def denied(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("fastxent.verify.reports.writers.os.open", denied)
    with pytest.raises(PermissionError, match="report cannot be written: Permission denied"):
        write(tmp_path / "report")


def test_a_file_that_may_not_be_written_to_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report"
    target.write_text("from before")
    # As root nothing is forbidden, so the answer is given here.
    monkeypatch.setattr("fastxent.verify.reports.writers.os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="report cannot be written: the file may not be"):
        write_text(target, "new")
    assert target.read_text() == "from before"


def test_asking_beforehand_leaves_no_trace(tmp_path: Path) -> None:
    check_target(tmp_path / "report")
    assert list(tmp_path.iterdir()) == []
    target = tmp_path / "report"
    target.write_text("from before")
    check_target(target)
    assert target.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [target]


def test_files_have_the_usual_permissions_and_keep_those_they_have(tmp_path: Path) -> None:
    usual, target = tmp_path / "usual", tmp_path / "report"
    usual.touch()
    write_text(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    target.chmod(0o640)
    write_text(target, "newer")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.read_text() == "newer"


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "report")
    write_text(link, "text")
    assert link.is_symlink()
    assert (tmp_path / "folder" / "report").read_text() == "text"


def test_a_device_is_written_to_and_not_replaced() -> None:
    check_target(os.devnull)
    write_text(os.devnull, "text")
    assert not Path(os.devnull).is_file()


# ---- a run ---------------------------------------------------------------------------------------


def overflows(logits: Any, labels: Any) -> tuple[Any, Any]:
    i = np.arange(len(labels))
    with np.errstate(all="ignore"):
        terms = np.exp(logits)
        sums = terms.sum(axis=1, keepdims=True)
        gradient = terms / sums
        gradient[i, labels] -= 1
        return np.log(sums[:, 0]) - logits[i, labels], gradient


def test_a_run_can_be_written_in_every_format(tmp_path: Path) -> None:
    report = verify(overflows, backends=["cython"], cases=["gaussian", "wide"], dtypes=["float32"])
    assert [result.implementation for result in report.failed] == ["overflows"]
    for kind, write in WRITERS.items():
        write(report, tmp_path / kind)
    found = strictly_parsed((tmp_path / "json").read_text("utf-8"))
    assert found["summary"]["verdict"] == "1 result is wrong"
    read = junitparser.JUnitXml.fromfile(str(tmp_path / "junit"))
    assert (read.tests, read.failures) == (4, 1)
    text = Page((tmp_path / "html").read_text("utf-8")).text
    assert "1 result is wrong" in text
    for command in commands(report):
        assert command in text


def test_the_command_of_a_run_names_its_level_or_its_cases() -> None:
    names = [case.name for case in cases_named([], QUICK)]
    arguments = {"cython": "--impl cython"}
    results = [ok(name, "cython") for name in names]
    command = run_command(Report("strict", 3, (1, 2), results, level=QUICK, arguments=arguments))
    assert command == (
        "fastxent verify --impl cython --profile strict --quick --dtype float32 --seed 3 "
        "--threads 1 --threads 2"
    )
    some = run_command(Report("strict", 3, (1,), results[:2], arguments=arguments))
    assert f" --case {names[0]} --case {names[1]} --dtype float32 " in some
