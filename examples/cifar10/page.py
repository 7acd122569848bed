"""One HTML page that needs no other file and no other host, light or dark as its reader prefers, and printable."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --soft: #57606a; --line: #d8dee4; --tile: #f6f8fa;
  --link: #0550ae; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e9ec; --soft: #adbac7; --line: #3a4149; --tile: #1e2329; --link: #6cb6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 48rem; }
a { color: var(--link); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: 1rem 0; }
.soft, figcaption, caption { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles div { background: var(--tile); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .9rem; }
.tiles dt { font-size: .85rem; color: var(--soft); }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft); }
figure { margin: 0; }
figure, p { break-inside: avoid; }
img { max-width: 100%; height: auto; }
.chart img { display: block; }
.white img { background: #ffffff; border-radius: .5rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: 1rem .75rem; margin: 1rem 0; }
.grid.of2 { grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); }
.grid.of3 { grid-template-columns: repeat(auto-fill, minmax(19.5rem, 1fr)); }
.grid figcaption { font-size: .85rem; line-height: 1.35; margin-top: .25rem; }
.grid .row { display: flex; gap: .35rem; }
.grid img { width: 96px; height: 96px; border-radius: .25rem; display: block; }
.pixels { image-rendering: pixelated; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .25rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
thead th { vertical-align: bottom; }
th:first-child, .text { text-align: left; }
td { white-space: nowrap; }
td.text { max-width: 48rem; overflow-wrap: break-word; white-space: normal; }
tbody th { font-weight: 500; }
tr { break-inside: avoid; }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; }
  h2, h3, p, caption, thead { break-after: avoid; } .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def png(image: NDArray[np.uint8]) -> bytes:
    """``(H, W, 3)`` uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _data(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def img(content: bytes, alt: str, *, pixels: bool = False) -> str:
    """An embedded PNG, as large as its resolution says; `pixels` keeps the pixels of a small one visible."""
    with Image.open(io.BytesIO(content)) as image:
        per_inch = image.info.get("dpi", (96, 96))[0]
        # CSS counts 96 pixels an inch.
        width, height = (round(side * 96 / per_inch) for side in image.size)
    style = ' class="pixels"' if pixels else ""
    return f'<img src="{_data(content)}" alt="{escape(alt)}" width="{width}" height="{height}"{style}>'


def chart(light: bytes, dark: bytes, alt: str) -> str:
    """A chart drawn twice, of which a reader sees the one that fits; printed is the light one."""
    return (
        '<figure class="chart"><picture><source media="screen and (prefers-color-scheme: dark)" '
        f'srcset="{_data(dark)}">{img(light, alt)}</picture></figure>'
    )


def white(content: bytes, alt: str) -> str:
    """A picture that is drawn on white."""
    return f'<figure class="white">{img(content, alt)}</figure>'


def grid(figures: Sequence[tuple[Sequence[str], str]]) -> str:
    """Small figures side by side, all of as many images: the images of each, and its caption as text."""
    made = (
        f'<figure><div class="row">{"".join(images)}</div><figcaption>{escape(caption)}</figcaption></figure>'
        for images, caption in figures
    )
    return f'<div class="grid of{len(figures[0][0])}">{"".join(made)}</div>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def tiles(figures: Sequence[tuple[str, str, str]]) -> str:
    """What it is, its value, and a word on it."""
    made = (
        f"<div><dt>{escape(what)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for what, value, note in figures
    )
    return f'<dl class="tiles">{"".join(made)}</dl>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[int] = ()) -> str:
    """A table whose first column names its rows.

    Args:
        caption: What it shows.
        head: A name for each column.
        rows: The cells.
        text: The columns that are no figures, besides the first.
    """
    # A sign of percent stays with the last word: alone in a line of its own it says nothing.
    names = [escape(name).replace(" %", "\N{NO-BREAK SPACE}%") for name in head]
    columns = "".join(f'<th scope="col"{_left(column in text)}>{name}</th>' for column, name in enumerate(names))
    body = []
    for first, *others in rows:
        cells = (f"<td{_left(column in text)}>{escape(cell)}</td>" for column, cell in enumerate(others, 1))
        body.append(f'<tr><th scope="row">{escape(first)}</th>{"".join(cells)}</tr>')
    return (
        # A wide table scrolls, which a keyboard can do only where it can go.
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _left(text: bool) -> str:
    return ' class="text"' if text else ""


def document(title: str, lead: str, sections: Mapping[str, str]) -> str:
    """The page.

    Args:
        title: Its name.
        lead: The HTML that comes before the sections.
        sections: Heading and HTML of each.
    """
    ids = {name: "".join(letter if letter.isalnum() else "-" for letter in name.lower()) for name in sections}
    links = "".join(f'<li><a href="#{ids[name]}">{escape(name)}</a></li>' for name in sections)
    body = "".join(
        f'<section aria-labelledby="{ids[name]}"><h2 id="{ids[name]}">{escape(name)}</h2>\n{content}\n</section>\n'
        for name, content in sections.items()
    )
    # The policy makes the browser itself refuse whatever is not in this file.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{lead}
</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{body}</main>
</body>
</html>
"""
