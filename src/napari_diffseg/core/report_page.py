"""The frame of a report: one HTML page that needs no network, and the pieces it is made of.

Everything that comes from files (names of cases, notes, models) goes through `html.escape`. The
page's own policy forbids scripts and every request, whatever slips through.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de;
  --paper: #ffffff; --tile: #f3f5f7; --mask: #0072b2; --truth: #b26a00; --band: #56b4e955; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4af; --line: #3a424b;
  --paper: #14181d; --tile: #1e242b; --mask: #56b4e9; --truth: #e69f00; --band: #56b4e944; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 900px; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 10px; padding-bottom: 4px;
  border-bottom: 1px solid var(--line); }
p { margin: 8px 0; max-width: 75ch; }
.soft, figcaption, th { color: var(--soft); }
.warning { border-left: 4px solid var(--truth); background: var(--tile); padding: 8px 12px;
  margin: 14px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px;
  margin: 18px 0; }
.tile { background: var(--tile); border-radius: 6px; padding: 10px 14px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
figure { margin: 0 0 20px; break-inside: avoid; }
figure.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; max-width: 700px; }
figure.pair img { width: 100%; height: auto; display: block; border-radius: 4px; background: #000; }
figcaption { grid-column: 1 / -1; font-size: 14px; }
svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
table.facts th { width: 30%; }
.key { display: inline-block; width: 22px; height: 0; border-top: 3px solid; margin: 0 6px 4px 0; }
.ramp { display: inline-block; width: 90px; height: 9px; border-radius: 2px; margin: 0 6px; }
tr, .tile, .warning { break-inside: avoid; }
h2 { break-after: avoid; }
@page { size: A4; margin: 14mm; }
@media print { body { padding: 0; max-width: none; font-size: 11pt;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""


def make_page(title: str, body: Iterable[str], record_json: str) -> str:
    """Return the whole page; `title` is plain text, `body` is HTML, the record is carried along."""
    # "<" cannot end the element then, and JSON reads \u003c as the same character.
    data = record_json.replace("<", "\\u003c")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            f'<script type="application/json" id="record">{data}</script>',
            "</body>",
            "</html>",
            "",
        ]
    )


def make_heading(text: str) -> str:
    """Return the heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def make_paragraph(text: str, kind: str = "") -> str:
    """Return plain text as a paragraph, of the class "soft" or "warning" if wanted."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def make_tiles(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Return figures to be read at a glance: name, value and what it means."""
    cells = (
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<span>{escape(meaning)}</span></div>"
        for name, value, meaning in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]], n_text: int = 0) -> str:
    """Return a table of numbers; the first `n_text` columns are text."""
    kinds = ["" if column < n_text else ' class="number"' for column in range(len(headings))]

    def make_row(cells: Sequence[str], tag: str) -> str:
        pairs = zip(cells, kinds, strict=True)
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(c)}</{tag}>' for c, kind in pairs)}</tr>"

    head, body = make_row(headings, "th"), "".join(make_row(row, "td") for row in rows)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def make_facts(facts: Iterable[tuple[str, str]]) -> str:
    """Return a table of names and values."""
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f'<table class="facts"><tbody>{"".join(rows)}</tbody></table>'


def make_picture(png: bytes, text: str) -> str:
    """Return a picture that is part of the page; `text` says what it shows."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(text)}">'
