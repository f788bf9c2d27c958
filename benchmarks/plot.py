"""`python -m benchmarks.plot`: the speed plot of the README and the newest tables of RESULTS.md, from the result files.

Writes docs/images/speed-light.svg and speed-dark.svg, and the part of benchmarks/RESULTS.md between its two marks.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.harness.results import Result, load, load_all, section

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
BEGIN, END = "<!-- newest runs: begin -->", "<!-- newest runs: end -->"

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


def with_newest(page: str, results: tuple[Result, ...]) -> str:
    """Return RESULTS.md with the newest runs between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n" + "\n".join(map(section, results)) + f"{END}{after}"


def main() -> None:
    """Write both plots and the tables."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    decode = load("decode")
    for theme in THEMES:
        (IMAGES / f"speed-{theme.name}.svg").write_text(plot(decode, theme), encoding="utf-8")
    RESULTS.write_text(with_newest(RESULTS.read_text(encoding="utf-8"), load_all()), encoding="utf-8")
    print(f"Wrote {IMAGES} and {RESULTS}")


if __name__ == "__main__":
    main()
