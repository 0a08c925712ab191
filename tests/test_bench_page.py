"""The page, the Markdown and the README's table, from made-up results."""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import made_up_results as made_up
import pytest
from made_up_results import bench, written

pytest.importorskip("cpuinfo", reason="the extra 'bench' brings it")

from fastxent.benchmarks.draw.content import Content
from fastxent.benchmarks.draw.markdown import code, escaped, markdown_text
from fastxent.benchmarks.draw.measured import Measured, read_measured
from fastxent.benchmarks.draw.page import heat, html_text
from fastxent.benchmarks.draw.readme import CASES, in_small, with_speeds
from fastxent.benchmarks.draw.wording import percent, times
from fastxent.benchmarks.judge.history import Entry, series_of
from fastxent.benchmarks.judge.paired import Compared, Comparison, Options
from fastxent.benchmarks.judge.sides import Side
from fastxent.benchmarks.judge.statistics import Interval
from fastxent.benchmarks.judge.verdicts import read_verdict

GRID = ["32x10", "32x1000", "1024x10", "1024x1000", "1024x32000"]
HOSTILE = "</title></svg><script>alert(1)</script>&\"'`|*_[x](http://e.example)@all\x1b\ud800"


def measured(folder: Path, **more: Any) -> list[Measured]:
    return read_measured([written(folder, made_up.throughput(**more))])


def history(n: int = 40, name: str = "test_words", unit: str = "seconds") -> list[Entry]:
    """One step of 20 %, at the middle."""
    return [
        Entry(
            fingerprint="some-cpu",
            machine=made_up.MACHINE,
            revision=f"{i:07x}abcdef",
            time=f"2026-01-{1 + i // 24:02}T{i % 24:02}:00:00+00:00",
            name=name,
            group=None,
            unit=unit,
            median=(1e-3 if unit == "seconds" else 1e6) * (1.2 if i >= n // 2 else 1.0),
            spread=0,
            rounds=9,
            extra_info={},
        )
        for i in range(n)
    ]


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def everything(folder: Path, name: str = "test_words") -> str:
    """A page with all of its parts; `name` is that of benchmarks in each."""
    results = made_up.throughput(
        [*GRID, "2x21x8x8-axis1"], ("loss", "loss_and_grad"), threads=(1, 2)
    )
    results["benchmarks"] += made_up.of_others([name])["benchmarks"]
    compare = made_up.compare("fail", (name, 1.2, "slower"), ("test_same", 1.0, "same"))
    gate = made_up.gate("pass", (name, 100, 100, "same"), ("new one", None, 5, "new"))
    entries = [*history(name=name), *history(name=name, unit="instructions")]
    content = Content(
        measured=read_measured([written(folder, results)]),
        history=series_of(entries, 0.02),
        history_problems=[name],
        verdicts=[
            read_verdict(written(folder, compare, "c.json"), "compare"),
            read_verdict(written(folder, gate, "g.json"), "gate"),
        ],
    )
    return html_text(content)


# ---- the page ------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_runs_nothing(tmp_path: Path) -> None:
    text = everything(tmp_path)
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object")]
    links = [value for _, a in page.tags for key, value in a.items() if key in ("href", "src")]
    assert links
    assert all(link and link.startswith("#") for link in links)
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)|@import", text)


def test_ids_are_unique_and_links_lead_somewhere(tmp_path: Path) -> None:
    page = Page(everything(tmp_path))
    ids = Counter(a["id"] for _, a in page.tags if "id" in a)
    assert max(ids.values()) == 1
    for _, attributes in page.tags:
        for key in ("href", "aria-labelledby"):
            if key in attributes:
                assert str(attributes[key]).removeprefix("#") in ids


def test_hostile_names_are_text(tmp_path: Path) -> None:
    text = everything(tmp_path, HOSTILE)
    page = Page(text)
    text.encode()  # no half of a surrogate pair
    assert "\x1b" not in text
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_every_picture_says_what_it_shows_and_takes_the_colour_of_text(tmp_path: Path) -> None:
    text = everything(tmp_path)
    page = Page(text)
    pictures = [a for _, a in page.tags if a.get("role") == "img"]
    assert len(pictures) == 2 * 4 + 2  # a batch of each operation and threads; two series
    assert all(len(str(a["aria-label"])) > 20 for a in pictures)
    assert len(list(page.all("svg"))) == len(pictures) + 4 * 9  # and what the marks mean
    assert "+20 % at run 20, revision 0000014abcde" in html.unescape(text)
    assert "currentColor" in text
    assert not re.search(r"(fill|stroke): *(#000000|black)", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport" content="width=device-width' in text


def test_tables_scroll_within_the_page(tmp_path: Path) -> None:
    text = everything(tmp_path)
    assert text.count("<table") == len(
        re.findall(r'<div class="box[^>]*tabindex="0">\s*<table', text)
    )


def test_the_page_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    assert everything(tmp_path) == everything(tmp_path)


def test_throughput_is_drawn_by_batch_with_the_roof(tmp_path: Path) -> None:
    (machine,) = measured(tmp_path, shapes=GRID, operations=("loss",))
    page = Page(html_text(Content(measured=[machine])))
    (first, second) = (a["aria-label"] or "" for _, a in page.tags if a.get("role") == "img")
    assert "batch 32." in first
    assert "batch 1024." in second
    most = 0.0
    for case, timings in machine.timings.items():
        roof = timings["roof_exp_sum"].median
        assert machine.roof_seconds(case) == pytest.approx(roof)
        assert f"{roof / timings['cython'].median:.2f}" in page.text  # its share, in the table
        if case.dimensions[0] == 1024:
            most = max(most, case.n_logits / roof)
    assert f"the roof {most / 1e9:.1f} G." in second


def test_ratios_are_a_heat_map_over_batch_and_classes(tmp_path: Path) -> None:
    (machine,) = measured(
        tmp_path, shapes=GRID, operations=("loss",), implementations=("cython", "torch", "jax")
    )
    text = html_text(Content(measured=[machine]))
    assert "cython against torch" in text
    assert "cython against jax" in text
    (grid,) = machine.grids
    assert grid.ratio(32, 32000, "cython", "torch") is None
    ratio = grid.ratio(1024, 1000, "cython", "torch")
    assert ratio is not None
    assert f'<td style="{heat(ratio)}">{times(ratio)}</td>' in text
    assert "<td></td>" in text  # 32 x 32000 was not timed


@pytest.mark.parametrize("ratio", [1e-3, 0.1, 0.5, 0.99, 1.0, 1.5, 2, 3, 4, 6, 8, 10, 16, 100])
def test_the_numbers_in_the_heat_map_can_be_read(ratio: float) -> None:
    found = re.fullmatch(r"background:#(\w{6});color:(#000|#fff)", heat(ratio))
    assert found is not None

    def luminance(colour: str) -> float:
        values = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(found[1]), luminance(found[2][1:] * 2)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(
    "more",
    [
        {"shapes": ["32x100"]},
        {"shapes": ["32x100", "32x1000"]},
        {"shapes": ["2x21x8x8-axis1"]},
        {"implementations": ("cython",)},
        {"implementations": ("roof_read", "roof_copy")},
        {"implementations": ("torch",)},
        {"operations": ("row_stats",), "implementations": ("cython",)},
    ],
)
def test_a_run_of_few_things_gives_a_page(tmp_path: Path, more: dict[str, Any]) -> None:
    content = Content(measured=measured(tmp_path, **more))
    page = Page(html_text(content))
    for reason in ("no history", "no paired runs", "no instruction counts"):
        assert reason in page.text
    assert "no results" not in page.text
    if more.get("implementations") == ("cython",):
        assert "No other library was timed here." in page.text
    assert markdown_text(content).startswith("## How fast it is\n")


def test_a_size_that_stands_alone_stays_out_of_the_pictures(tmp_path: Path) -> None:
    (machine,) = measured(tmp_path, shapes=[*GRID, "1x256000"])
    (grid,) = machine.grids
    assert grid.batches == [32, 1024]
    assert [case.shape for case in machine.outside_grids] == ["1x256000"]
    assert "1 x 256000" in html_text(Content(measured=[machine]))


def test_a_page_of_nothing_says_so() -> None:
    page = Page(html_text(Content(history=[])))
    for reason in ("no results", "nothing in the history yet", "no paired runs"):
        assert reason in page.text


def test_results_of_other_projects_are_a_table(tmp_path: Path) -> None:
    file, target = written(tmp_path, made_up.of_others()), tmp_path / "page.html"
    assert bench("page", "--results", file, "--html", target) == 0
    text = Page(target.read_text("utf-8")).text
    assert re.search(r"test_words\s*1\.5 ms\s*20 us\s*9", text)
    assert "Some CPU @ 2 GHz" in text


def test_files_of_one_machine_are_taken_together_and_those_of_others_are_not(
    tmp_path: Path,
) -> None:
    first = written(tmp_path, made_up.throughput(["32x10"]), "a.json")
    second = written(tmp_path, made_up.throughput(["32x100"], seed=1), "b.json")
    other_machine = made_up.MACHINE | {"cpu": "Another CPU", "fingerprint": "another"}
    third = written(tmp_path, made_up.throughput(machine=other_machine), "c.json")
    machines = read_measured([first, second, third])
    assert [len(each.timings) for each in machines] == [2, 1]
    text = html_text(Content(measured=machines))
    assert "Throughput: Another CPU" in text


def test_a_later_file_without_the_peers_takes_none_away(tmp_path: Path) -> None:
    first = written(tmp_path, made_up.throughput(), "a.json")
    alone = made_up.throughput(implementations=("cython",), seed=7)
    (machine,) = read_measured([first, written(tmp_path, alone, "b.json")])
    (timings,) = machine.timings.values()
    assert set(timings) == set(made_up.SPEEDS)
    assert timings["cython"].median == alone["benchmarks"][0]["stats"]["median"]
    others = [written(tmp_path, made_up.of_others(), name) for name in ("c.json", "d.json")]
    (machine,) = read_measured(others)
    assert [each.name for each in machine.others] == ["test_words", "test_batch"]


def test_the_history_is_drawn_with_its_changes(tmp_path: Path) -> None:
    entries = [entry for i in range(30) for entry in history(10, f"test_{i}")]
    content = Content(history=series_of([*entries, *history(name="test_changed")], 0.02))
    page = Page(html_text(content))
    assert "7 more without a picture" in page.text
    assert page.text.index("test_changed") < page.text.index("test_0")
    assert "30 benchmarks" not in page.text
    assert "31 benchmarks" in page.text


@pytest.mark.parametrize(
    ("verdict", "heading"),
    [
        ("pass", "No slowdown found"),
        ("fail", "Slower than before"),
        ("inconclusive", "Inconclusive"),
    ],
)
def test_the_worst_verdict_is_the_heading(tmp_path: Path, verdict: str, heading: str) -> None:
    compare = written(tmp_path, made_up.compare(verdict, ("test_a", 1.0, "same")), "c.json")
    gate = written(tmp_path, made_up.gate("pass", ("a", 1, 1, "same")), "g.json")
    page, comment = tmp_path / "page.html", tmp_path / "comment.md"
    asked = ("--compare", compare, "--gate", gate, "--html", page, "--markdown", comment)
    assert bench("page", *asked) == 0
    assert f"<h1>{heading}</h1>" in page.read_text("utf-8")
    lines = comment.read_text("utf-8").splitlines()
    assert lines[0] == f"## {heading}"
    times, counts = (line for line in lines if line.startswith("**"))
    assert times.startswith(f"**Time (compare): {verdict}.** main (0.1.0) → what is installed")
    assert counts.startswith("**Instructions (gate): pass.** recorded → ")


def test_what_a_comparison_writes_is_read_again(tmp_path: Path) -> None:
    side = Side("abc", "0.2.0", "python", {})
    unknown = Interval(1.0, 0.0, math.inf)
    benchmarks = (
        Compared("test_a", "g", 1e-3, 2e-3, Interval(2.0, 1.9, 2.1), unknown, "slower", True),
        Compared("test_b", None, 1e-3, 1e-3, unknown, unknown, "unclear"),
    )
    found = Comparison(
        side, side, Options(), 5, 90.0, (0.25, None), {}, benchmarks, only_in_base=("test_c",)
    )
    verdict = read_verdict(written(tmp_path, found.as_json(), "c.json"), "compare")
    assert (verdict.verdict, verdict.base, verdict.threshold) == ("fail", "abc (0.2.0)", 0.05)
    assert [(each.name, each.verdict) for each in verdict.notable] == [
        ("test_a", "slower"),
        ("test_b", "unclear"),
    ]
    first, second = verdict.changes
    assert (first.base, first.head, first.ratio, first.high) == (1e-3, 2e-3, 2.0, 2.1)
    assert second.high is None
    assert "run in BASE only: test_c" in verdict.notes
    assert "load of the machine before and after: 0.25" in verdict.notes
    text = html_text(Content(verdicts=[verdict]))
    assert "of 2 benchmarks 1 slower, 1 unclear, at 5 %." in text


def test_what_is_slower_comes_first(tmp_path: Path) -> None:
    counts = [(f"new {i}", None, 100, "new") for i in range(20)]
    counts += [("much faster", 100, 1, "faster"), ("slower", 100, 102, "slower")]
    counts += [("more", 100, 103, "slower"), ("lost", 100, None, "gone")]
    gate = made_up.gate("fail", *counts)
    verdict = read_verdict(written(tmp_path, gate, "g.json"), "gate")
    names = [each.name for each in verdict.notable]
    assert names[:4] == ["more", "slower", "lost", "new 0"]
    assert names[-1] == "much faster"
    assert "| `more` | slower | 100 | 103 | +3.0 % |" in markdown_text(Content(verdicts=[verdict]))


# ---- Markdown ------------------------------------------------------------------------------------


def test_the_markdown_is_short_whatever_there_is_to_say(tmp_path: Path) -> None:
    changed = [(f"test_{i}", 1.2, "slower") for i in range(100)]
    counts = [(f"kernel {i}", 100, 120, "slower") for i in range(100)]
    results = made_up.throughput(GRID, made_up_operations(), ("float32", "float64"), (1, 2))
    content = Content(
        measured=read_measured([written(tmp_path, results)]),
        history=series_of([e for i in range(9) for e in history(name=f"test_{i}")], 0.02),
        verdicts=[
            read_verdict(written(tmp_path, made_up.compare("fail", *changed), "c.json"), "compare"),
            read_verdict(written(tmp_path, made_up.gate("fail", *counts), "g.json"), "gate"),
        ],
    )
    text = markdown_text(content)
    assert text.count("\n") < 60
    assert text.count("and 92 more") == 2
    assert "and 4 more" in text
    assert "| loss, float32, 2 threads | 32 x 10 | " in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_markdown_has_what_another_project_measured(tmp_path: Path) -> None:
    results = written(tmp_path, made_up.of_others(("test_words", "test_batch")))
    content = Content(measured=read_measured([results]), history=series_of(history(3), 0.02))
    text = markdown_text(content)
    assert re.search(r"^\| `test_words` \| .* \| .* \|$", text, re.MULTILINE)
    # too short for any: "no change" would say more than is known
    assert "1 with fewer than 8 runs cannot show any" in text


def made_up_operations() -> tuple[str, ...]:
    return ("loss", "loss_and_grad", "softmax")


def test_markdown_keeps_hostile_names_as_they_are(tmp_path: Path) -> None:
    compare = made_up.compare("fail", (HOSTILE, 1.2, "slower"))
    compare["head"]["name"] = HOSTILE
    text = markdown_text(
        Content(verdicts=[read_verdict(written(tmp_path, compare, "c.json"), "compare")])
    )
    outside_code = re.sub(r"`[^`]*`", "", text.replace("\\`", ""))
    assert "<script" not in outside_code
    assert "@all" not in outside_code
    assert not re.search(r"(?<!\\)\]\(", outside_code)
    (line,) = [line for line in text.splitlines() if "| slower |" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 7
    assert code("a`b|c\nd") == "`a'b\\|c d`"
    assert escaped("a|b <i> 2 @ 3\n4") == "a\\|b &lt;i\\> 2 @ 3 4"


# ---- the README ----------------------------------------------------------------------------------

DIGITS = "| *digits, in float32* | | | |\n| digits: largest error | 1.55 ULP | 2 ULP | 13 ULP |\n"
README = f"""\
# Title
<!-- speed: begin -->
| loss and gradient | fastxent | best other | PyTorch |
| --- | --- | --- | --- |
| small | old | old | old |
{DIGITS}<!-- speed: end -->
Text.
<!-- all speeds: begin -->
<!-- all speeds: end -->
"""


def results_of_two_machines(folder: Path) -> list[Path]:
    shapes = list(dict.fromkeys(shape for _, _, shape in CASES))
    operations = ("loss", "loss_and_grad")
    one = made_up.throughput(shapes, operations, ("float32", "bfloat16"), (1, 2))
    one["command"] = "fastxent bench run --set full"
    other_machine = made_up.MACHINE | {"cpu": "Another CPU|*", "fingerprint": "another"}
    two = made_up.throughput(["8x10", "1024x1024"], operations, machine=other_machine)
    files = []
    for name, results in (("one", one), ("two", two)):
        full = written(folder, results, f"{name}-full.json")
        files.append(folder / f"{name}.json")
        assert bench("page", "--results", full, "--small", files[-1]) == 0
        assert files[-1].stat().st_size < 80_000
    return files


def test_the_table_of_speed_is_written_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    results = [part for file in results_of_two_machines(tmp_path) for part in ("--results", file)]
    assert bench("page", *results, "--readme", readme) == 0
    text = readme.read_text()
    head, _, rest = text.partition("<!-- speed: begin -->\n")
    table, _, rest = rest.partition("<!-- speed: end -->")
    assert head == "# Title\n"
    assert table.endswith(DIGITS)
    lines = table.splitlines()
    # A line of another kind would end the table.
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in lines)
    assert "old" not in table
    assert lines[2] == "| *Some CPU @ 2 GHz, fastxent's AVX2 build, 2 threads* |  |  |  |"
    assert lines[3].startswith("| small: 8 x 10, float32 | ")
    assert re.fullmatch(
        r"\| in cache: 1024 x 1024, float32 \| [\d.]+ us, Numba [\d.]+ us; [\d.]+ of the roof "
        r"\| [\d.]+ us torch\.compile, [\d.]+ times \| [\d.]+ ms, [\d.]+ times \|",
        lines[4],
    )
    another = "| *Another CPU\\|\\*, fastxent's AVX2 build, 1 thread*"
    assert sum(line.startswith(another) for line in lines) == 1
    long = rest.partition("<!-- all speeds: begin -->\n")[2]
    assert "| loss, float32, 2 threads | 1 x 256000 | " in long
    assert "| loss and gradient, float32, 2 threads | 8 x 21 x 512 x 512, axis 1 | " in long
    assert long.count("**") == 4
    assert (
        "**Some CPU @ 2 GHz, fastxent's AVX2 build, 2 threads, fastxent 0.1.0, numpy 2.4.6, "
        "Python 3.11.7, 2026-03-01, `fastxent bench run --set full`**"
    ) in long
    assert long.endswith("<!-- all speeds: end -->\n")


def test_a_check_says_whether_the_table_is_up_to_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    results = [part for file in results_of_two_machines(tmp_path) for part in ("--results", file)]
    assert bench("page", *results, "--readme", readme, "--check") == 1
    assert "is not up to date" in capsys.readouterr().out
    assert readme.read_text() == README
    assert bench("page", *results, "--readme", readme) == 0
    before = readme.read_text()
    assert bench("page", *results, "--readme", readme, "--check") == 0
    assert bench("page", *results, "--readme", readme) == 0
    assert readme.read_text() == before
    readme.write_text(before.replace("of the roof", "of the floor"))
    assert bench("page", *results, "--readme", readme, "--check") == 1


@pytest.mark.parametrize(
    "text",
    [
        "# No markers\n",
        "<!-- speed: begin -->\n",
        "<!-- speed: end -->\n<!-- speed: begin -->\n",
        "<!-- speed: begin -->\n<!-- speed: begin -->\n<!-- speed: end -->\n",
        "<!-- speed: begin -->\n<!-- speed: end -->\n<!-- speed: end -->\n",
    ],
)
def test_a_readme_without_its_markers_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    file = written(tmp_path, made_up.throughput(["8x10"]))
    assert bench("page", "--results", file, "--readme", readme) == 2
    assert "<!-- speed: begin --> and <!-- speed: end -->" in capsys.readouterr().err
    assert readme.read_text() == text


def test_results_without_the_cases_of_the_table_are_refused(tmp_path: Path) -> None:
    machines = measured(tmp_path, shapes=["32x100"])
    with pytest.raises(ValueError, match="have none of the cases of the table"):
        with_speeds(README, machines, Path("README.md"))


def test_what_is_kept_for_the_table_holds_nothing_else() -> None:
    results = made_up.throughput(["8x10", "32x100"], threads=(1, 2))
    results["benchmarks"] += made_up.of_others()["benchmarks"]
    kept = in_small(results)
    assert {each["extra_info"]["shape"] for each in kept["benchmarks"]} == {"8x10"}
    assert {each["extra_info"]["threads"] for each in kept["benchmarks"]} == {2}
    assert in_small(kept) == kept


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--results", "r.json"), "nothing to write"),
        (("--html", "p.html"), "nothing to draw"),
        (("--history", "h.jsonl", "--check", "--html", "p.html"), "--check goes with --readme"),
        (("--history", "h.jsonl", "--readme", "R.md"), "need --results"),
        (("--results", "missing.json", "--html", "p.html"), "missing.json cannot be read"),
        (("--results", "bad.json", "--html", "p.html"), "bad.json is no JSON"),
        (("--results", "odd.json", "--html", "p.html"), "odd.json has a result that cannot"),
        (("--compare", "r.json", "--html", "p.html"), "is not what `fastxent bench compare` wr"),
        (("--gate", "c.json", "--html", "p.html"), "is not what `fastxent bench gate` writes"),
        (("--history", "r.json", "--html", "p.html"), "r.json is no history"),
        (("--results", "r.json", "--html", "none/p.html"), "there is no folder"),
        (("--results", "r.json", "--readme", "R.md"), "R.md cannot be read"),
    ],
)
def test_wrong_commands_and_files_are_said_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, made_up.throughput(["8x10"]), "r.json")
    written(tmp_path, made_up.compare("pass"), "c.json")
    (tmp_path / "bad.json").write_text("{")
    odd = made_up.throughput(["8x10"])
    odd["benchmarks"][0]["extra_info"]["shape"] = "8xten"
    written(tmp_path, odd, "odd.json")
    (tmp_path / "h.jsonl").write_text(json.dumps(asdict(history(1)[0])) + "\n")
    assert bench("page", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()


def test_percents_and_times_are_short() -> None:
    assert [percent(ratio) for ratio in (1.1, 1.034, 0.5, 1)] == [
        "+10 %",
        "+3.4 %",
        "-50 %",
        "+0.0 %",
    ]
    assert [times(ratio) for ratio in (18.4, 9.96, 5.81, 1, 0.123)] == [
        "18",
        "10",
        "5.8",
        "1.0",
        "0.12",
    ]


def test_a_history_of_one_run_is_a_table_without_pictures() -> None:
    page = Page(html_text(Content(history=series_of([replace(history(1)[0])], 0.02))))
    assert not list(page.all("svg"))
    assert "0 changes in 1 series" in page.text
