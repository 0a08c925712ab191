"""What all plots are made of: marks, axes for errors, and SVG that a page can hold.

Matplotlib draws on figures of their own: no window, no state that other code would see. What is
black on a light page is `currentColor`, so that the page decides; text stays text.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from .writers import printable

# Colours that people with any kind of colour vision can tell apart (after Okabe and Ito), of a
# lightness between a white and a black page. Shapes are outlines: where two implementations gave
# the same, both can be seen.
_STYLES: Final = (
    ("#2f7fc1", "o"),
    ("#d55e00", "x"),
    ("#009e73", "^"),
    ("#c0699b", "D"),
    ("#c98a00", "s"),
    ("#4aa3df", "v"),
    ("#8a8a8a", "+"),
    ("#8b6fd1", "*"),
)
_SIZES: Final = {"o": 5.5, "x": 4.0, "+": 6.0, "*": 6.0, "D": 4.0}
FOREGROUND: Final = "#010203"  # stands for the colour of the page's text
LIMIT: Final = "#d03b3b"
WIDTH: Final = 8.4  # inches of 72 units
_LONGEST_NAME: Final = 32
_SETTINGS: Final[dict[Any, Any]] = {
    "text.parse_math": False,  # a $ in a name is no formula
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.edgecolor": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FOREGROUND,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "text.color": FOREGROUND,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


@contextlib.contextmanager
def our_settings() -> Iterator[None]:
    """Whatever the user has set for other plots must not change these, nor these those."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The page has other fonts than the one that text is measured with.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def label(name: str) -> str:
    """The name of an implementation as it fits a plot."""
    text = printable(name)
    text = text if len(text) <= _LONGEST_NAME else f"…{text[1 - _LONGEST_NAME :]}"
    # A label that begins with _ is none to Matplotlib.
    return f"\u200b{text}" if text.startswith("_") else text


class Compared(Protocol):
    """What a page is about: its implementations, in an order that is the same for all plots."""

    @property
    def implementations(self) -> Sequence[str]:
        """Their names."""


def style(report: Compared, name: str) -> dict[str, Any]:
    """How the marks of an implementation look, in all plots."""
    colour, marker = _STYLES[report.implementations.index(name) % len(_STYLES)]
    return {
        "color": colour,
        "marker": marker,
        "markersize": _SIZES.get(marker, 4.5),
        "markerfacecolor": "none",
        "markeredgewidth": 1.0,
        "linestyle": "none",
    }


def legend(figure: Figure, report: Compared, names: Iterable[str], *more: Line2D) -> None:
    """Which marks and lines are which, above all panels."""
    handles = [Line2D([], [], label=label(name), **style(report, name)) for name in names]
    handles += more
    n_columns = 8 if sum(len(str(handle.get_label())) + 6 for handle in handles) < 110 else 4
    figure.legend(handles=handles, loc="outside upper left", ncols=n_columns)


# ---- axes --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """A logarithmic axis with a place for 0 at its start, and one for all beyond at its end."""

    floor: float
    ceiling: float

    def place(self, value: float) -> float:
        """Where on the axis a value is drawn."""
        if not value <= self.ceiling:  # NaN, too
            return self.ceiling
        # Only what is 0 may look exact.
        return max(value, 1.4 * self.floor) if value > 0 else self.floor

    def set_on(self, axes: Axes, which: str) -> None:
        """Make it the axis "x" or "y"."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        getattr(axes, f"set_{which}scale")("log")
        room = (self.ceiling / self.floor) ** 0.025
        getattr(axes, f"set_{which}lim")(self.floor / room, self.ceiling * room)
        low, high = round(math.log10(self.floor)), round(math.log10(self.ceiling))
        step = max(1, -(-(high - low) // 8))
        powers = [10.0**k for k in range(low + 1, high) if k % step == 0 and k + 0.6 * step < high]
        axis.set_major_locator(FixedLocator([self.floor, *powers, self.ceiling]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: self._label(value)))

    def _label(self, value: float) -> str:
        if value <= self.floor * 1.001:
            return "exact"
        return "more" if value >= self.ceiling * 0.999 else _power(value)


def counts_on_x(axes: Axes, counts: Iterable[int]) -> None:
    """A logarithmic axis for these counts, with ticks at powers of ten only."""
    known = [*counts] or [1]
    low = 10.0 ** math.floor(math.log10(max(min(known), 1)))
    high = max(*known, 10 * low)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.5, high * 1.5)
    axes.xaxis.set_major_locator(FixedLocator([10.0**k for k in range(19)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))


def _power(value: float) -> str:
    """A power of ten in few characters."""
    exponent = round(math.log10(value))
    if -3 <= exponent <= 3:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def scale_for(values: Iterable[float], floor: float, ceiling: float) -> Scale:
    """At least from floor to ceiling, and wider where a value asks for it."""
    finite = [value for value in values if 0 < value < math.inf]
    smallest, largest = min(finite, default=1.0), max(finite, default=1.0)
    while smallest < 1.4 * floor and floor > 2e-3:
        floor /= 10
    while largest > ceiling / 5 and ceiling < 1e18:
        ceiling *= 10
    return Scale(floor, ceiling)


# ---- from a figure to the SVG of a page -------------------------------------------------------


def svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page; `name` keeps its ids apart from those of other plots."""
    file = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = name
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    # In a page neither names of XML nor a size are needed, and styles would be the whole page's.
    text = f"<svg {box[0]}>{text[text.index('>') + 1 :]}"
    text = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", text))
    text = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], used), text)
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _tag(text: str, used: set[str]) -> str:
    """A tag of the SVG, shorter by half: without what a page has or nobody sees."""
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    return text.replace("xlink:href", "href").replace(FOREGROUND, "currentColor")
