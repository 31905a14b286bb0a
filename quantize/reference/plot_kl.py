#!/usr/bin/env python3
"""Draws KL against bytes from the tables of docs/benchmarks.md, "Fitted to a size": theirs and ours, one panel for each model.

    python3 quantize/reference/plot_kl.py            # writes docs/kl.svg

Python's standard library is enough.
"""
import math
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 420, 330, 64, 76, 44, 24
THEIRS, OURS = "#b45309", "#1d4ed8"


def tables(text):
    """(title, [(name, their bytes, our bytes, their KL, our KL)]) of each table."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        if line.startswith("| ") and "at the size of" in cells[0]:
            found.append((cells[0].split(":")[0], []))
        elif found and line.startswith("| ") and re.fullmatch(r"[\d,]+ / [\d,]+", cells[1] if len(cells) > 3 else ""):
            theirs, ours = (int(part.replace(",", "")) for part in cells[1].split(" / "))
            found[-1][1].append((cells[0], theirs, ours, float(cells[2]), float(cells[3])))
        elif found and found[-1][1] and not line.startswith("|"):
            if len(found) == 2:
                break
    return found


def label(name, x, y, color):
    """Steep, so that neighbours leave room for each other."""
    return f'<text x="{x:.1f}" y="{y:.1f}" dx="9" dy="1" transform="rotate(-60 {x:.1f} {y:.1f})" fill="{color}">{name}</text>'


def panel(title, rows, left):
    megabytes = [b / 1e6 for row in rows for b in row[1:3]]
    first, last = math.floor(min(megabytes)), math.ceil(max(megabytes))
    x = lambda count: left + LEFT + (count / 1e6 - first) / (last - first) * (WIDTH - LEFT)
    y = lambda kl: TOP + (math.log10(0.1) - math.log10(kl)) / 2.7 * (HEIGHT - TOP - BOTTOM)
    out = [f'<text x="{left + LEFT}" y="20" font-weight="600">{title}</text>']
    for kl in (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003):
        out.append(f'<line x1="{left + LEFT}" x2="{left + WIDTH}" y1="{y(kl):.1f}" y2="{y(kl):.1f}" stroke="#e5e7eb"/>')
        out.append(f'<text x="{left + LEFT - 6}" y="{y(kl) + 4:.1f}" text-anchor="end">{kl}</text>')
    for mega in range(first, last + 1, 2):
        out.append(f'<text x="{x(mega * 1e6):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{mega}</text>')
    out.append(f'<text x="{left + (LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">file, MB</text>')
    for who, color, size, loss in (("llama.cpp", THEIRS, 1, 3), ("Brooklet", OURS, 2, 4)):
        points = [(x(row[size]), y(row[loss])) for row in rows]
        out.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>')
        out += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{color}"/>' for a, b in points]
        if who == "llama.cpp":
            out += [label(row[0], *at, color) for row, at in zip(rows, points)]
    return out


def main():
    found = tables((DOCS / "benchmarks.md").read_text())
    width = len(found) * (WIDTH + GAP) + GAP
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" font-size="11" fill="#111827">',
           f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>']
    for number, (title, rows) in enumerate(found):
        out += panel(f"{title}: mean KL from the float model, nats a token", rows, number * (WIDTH + GAP))
        at = number * (WIDTH + GAP) + LEFT
        out.append(f'<text x="{at}" y="36" fill="{THEIRS}">llama.cpp, the better of two</text><text x="{at + 170}" y="36" fill="{OURS}">Brooklet, fitted to the same size</text>')
    (DOCS / "kl.svg").write_text("\n".join(out + ["</svg>"]) + "\n")


if __name__ == "__main__":
    main()
