"""`python -m benchmarks.plot`: the plot and tables of README and RESULTS.md, from the result files.

Writes docs/images/speed-light.svg and speed-dark.svg, and what stands between two marks in README.md and RESULTS.md.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.harness.results import Result, load, load_all, section, table

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
README = ROOT / "README.md"

WIDTH, LABEL, BAR, GAP = 760, 330, 20, 8
"""Pixels: the picture, the column of labels, a bar's height and the space below it."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one plot."""

    name: str
    text: str
    muted: str
    ours: str
    others: str


THEMES = (
    Theme("light", text="#1f2328", muted="#59636e", ours="#0969da", others="#afb8c1"),
    Theme("dark", text="#f0f6fc", muted="#9198a1", ours="#4493f8", others="#656c76"),
)


def plot(result: Result, theme: Theme) -> str:
    """Return decode's ratios as bars in an SVG: 1.0, the base alone, is the full width."""
    ratio = result.columns.index("base time / its time")
    parts, y = [], 46
    for sequences in dict.fromkeys(row[0] for row in result.rows):
        plural = "sequence" if sequences == 1 else "sequences"
        parts.append(_text(0, y, f"{sequences} {plural} at once", theme.text, weight=600))
        y += 14
        for row in (row for row in result.rows if row[0] == sequences):
            parts += _bar(y, str(row[1]), float(row[ratio]), theme)
            y += BAR + GAP
        y += 22
    title = _text(
        0, 18, "Decode speed as a share of the base model's (higher is better)", theme.text, size=15, weight=600
    )
    machine = _text(
        0, y, f"{result.machine.processor}, {result.machine.cores} cores, {result.date}", theme.muted, size=12
    )
    style = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"'
    body = "\n".join([title, *parts, machine])
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" {style}>\n{body}\n</svg>\n'


def _bar(y: int, label: str, ratio: float, theme: Theme) -> list[str]:
    full = WIDTH - LABEL - 60
    colour = theme.ours if "kernel" in label else theme.others
    return [
        _text(LABEL - 10, y + BAR - 5, label, theme.text, anchor="end"),
        f'<rect x="{LABEL}" y="{y}" width="{full * min(ratio, 1.1):.1f}" height="{BAR}" rx="3" fill="{colour}"/>',
        _text(round(LABEL + full * min(ratio, 1.1)) + 8, y + BAR - 5, f"{ratio:.3f}", theme.muted),
    ]


def _text(x: int, y: int, text: str, colour: str, *, size: int = 13, weight: int = 400, anchor: str = "start") -> str:
    shape = f'x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {shape}>{escape(text)}</text>"


def between(page: str, mark: str, text: str) -> str:
    """Return a page with `text` between its comments `mark: begin` and `mark: end`."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def results_page(page: str) -> str:
    """Return RESULTS.md with the newest run of every benchmark."""
    return between(page, "newest runs", "\n".join(map(section, load_all())))


def readme_page(page: str) -> str:
    """Return the README with the newest decode table."""
    decode = load("decode")
    runs = "one run" if decode.runs == 1 else f"medians of {decode.runs} runs"
    facts = f"{decode.machine.processor}, {decode.machine.cores} cores, {decode.date}; {runs}."
    paragraph = "\n".join(textwrap.wrap(" ".join([facts, *decode.notes]), 100))
    return between(page, "decode", f"{table(decode)}\n\n{paragraph}")


def main() -> None:
    """Write both plots and the tables."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    decode = load("decode")
    for theme in THEMES:
        (IMAGES / f"speed-{theme.name}.svg").write_text(plot(decode, theme), encoding="utf-8")
    for path, renew in ((RESULTS, results_page), (README, readme_page)):
        path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"Wrote the plots in {IMAGES}, {RESULTS} and {README}")


if __name__ == "__main__":
    main()
