"""Pages and pictures that need no other file: the frame, the style, and Matplotlib's SVG in them.

Text stays text, in the page's font, and inks are the page's CSS colours, so a picture follows the
reader's light or dark scheme. Every SVG has a text alternative (`aria-label`) and is the same to
the byte for the same numbers.
"""

from __future__ import annotations

import functools
import html
import io
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec

from kd_sleep.extras import optional_packages

with optional_packages():
    import matplotlib
    from matplotlib.figure import Figure

# Okabe & Ito's palette, made for colour-blind readers: four hues for stages, others for systems.
STAGE_COLOURS = {"Wake": "#E69F00", "REM": "#CC79A7", "Light": "#56B4E9", "Deep": "#0072B2"}

# Stand-ins that Matplotlib can draw with and `_svg` turns into the page's own colours.
INK, MUTED = "#010203", "#020304"
_CSS_COLOURS = {INK: "currentColor", MUTED: "var(--muted)"}
_ON_WHITE = {INK: "#1b2026", MUTED: "#5c6670"}  # the page's own, light
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
}
NARROW = 4.8  # inches; still readable when a phone scales it to 358 CSS pixels
WIDE = 9.6  # for a whole night, which a phone scrolls

P = ParamSpec("P")


def drawing(draw: Callable[P, tuple[Figure, str]]) -> Callable[P, str]:
    """Makes a function of (figure, text alternative) one of inline SVG, in the report's style."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        return _inline(*_drawn(draw, True, *args, **kwargs))

    return drawn


def drawing_file(draw: Callable[P, tuple[Figure, str]]) -> Callable[P, str]:
    """The same as a file of its own: an <img> sees no page, so it is dark ink on white."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        svg, text = _drawn(draw, False, *args, **kwargs)
        for stand_in, colour in _ON_WHITE.items():
            svg = svg.replace(stand_in, colour)
        svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
        return _named(svg, text) + "\n"

    return drawn


def _drawn(
    draw: Callable[P, tuple[Figure, str]], transparent: bool, *args: P.args, **kwargs: P.kwargs
) -> tuple[str, str]:
    """The drawing as an <svg> element, still in stand-in inks, and its text alternative."""
    name = draw.__name__
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure, text = draw(*args, **kwargs)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=transparent, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # In attributes, not in text: a hundredth of a point is finer than any screen.
    svg = re.sub(r'="[^"]*"', lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]), svg)
    # Matplotlib hashes coordinates into ids, down to the layout's rounding: they are numbered here.
    hashed = dict.fromkeys(re.findall(r'\bid="([a-z][0-9a-f]{10})"', svg))
    for number, name_of in enumerate(hashed):
        svg = svg.replace(name_of, f"n{number}")
    # Ids begin with the function's name and the picture's own number: no two pictures share one.
    mark = f"{name}-{zlib.crc32((svg + text).encode()):08x}"
    return re.sub(r'((?:\bid|href)="#?|url\(#)', rf"\g<1>{mark}-", svg), text


def _inline(svg: str, text: str) -> str:
    """In the page's own colours."""
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows them
    for stand_in, css in _CSS_COLOURS.items():
        svg = svg.replace(stand_in, css)
    return _named(svg, text)


def _named(svg: str, text: str) -> str:
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(text)}"', 1)


def section(title: str, *parts: str, tag: str = "") -> str:
    """A section of a page. All strings here are HTML: who makes them escapes what is not theirs."""
    mark = f' <span class="tag">{tag}</span>' if tag else ""
    return f'<section id="{anchor(title)}"><h2>{title}{mark}</h2>{"".join(parts)}</section>'


def contents(titles: Iterable[str]) -> str:
    """Links to sections of this page, by their titles."""
    links = "".join(f'<li><a href="#{anchor(title)}">{title}</a></li>' for title in titles)
    return f'<nav aria-label="Contents"><ul>{links}</ul></nav>'


def anchor(title: str) -> str:
    """A section's id."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def details(summary: str, *parts: str) -> str:
    """What only some readers want: folded on a screen, open in print."""
    return f"<details><summary>{summary}</summary>{''.join(parts)}</details>"


def figure_of(svg: str, caption: str, kind: str = "narrow") -> str:
    """A picture with its caption; `wide` ones scroll on a phone."""
    return (
        f'<figure class="{kind}"><div class="scroll" tabindex="0">{svg}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def table_of(
    heads: Iterable[str], rows: Iterable[Sequence[str]], kind: str, caption: str = ""
) -> str:
    """A table of HTML cells; the first cell of a row heads it. Wide ones scroll, with a hint."""
    heads = list(heads)
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    hint = "" if len(heads) <= 4 else " wider" if len(heads) <= 9 else " widest"
    return (
        f'<div class="scroll{hint}" tabindex="0"><table class="{kind}"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def stage_chip(name: str) -> str:
    """A stage's name with its colour."""
    return f'<i class="chip" style="background:{STAGE_COLOURS[name]}"></i>{name}'


def page(title: str, body: str) -> str:
    """A whole page, light and dark, for a phone and for print."""
    return _PAGE % {"css": _CSS, "title": html.escape(title), "body": body}


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>%(title)s</title>
<style>%(css)s</style>
</head>
<body><main>
%(body)s
</main></body>
</html>
"""

_CSS = """
:root { --ink: #1b2026; --muted: #5c6670; --paper: #f7f7f4; --card: #fff; --line: #dfe2e5;
  --heat: 0 158 115; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e7eaed; --muted: #9ba6b0;
  --paper: #13161a; --card: #1c2127; --line: #343b43; --heat: 0 158 115; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 0 0 .7rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .6rem; }
section { margin-top: 2.5rem; }
a { color: inherit; }
.lead p { font-size: 1.1rem; line-height: 1.45; max-width: 52rem; margin-bottom: .7rem; }
.tag { font-size: .75rem; font-weight: 600; letter-spacing: .02em; vertical-align: .15em;
  padding: .1rem .45rem; border-radius: 1rem; background: var(--ink); color: var(--paper); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem 1.1rem; padding: .7rem 0;
  margin: 1.5rem 0 0; border: solid var(--line); border-width: 1px 0; font-size: .875rem; }
.findings { max-width: 46rem; padding-left: 1.2rem; margin: 0 0 1rem; }
.findings li { margin-bottom: .3rem; }
details { margin-bottom: .6rem; }
p { max-width: 46rem; margin: 0 0 1rem; }
.note, figcaption, caption { color: var(--muted); font-size: .875rem; }
.badge { background: var(--ink); color: var(--paper); border-radius: .4rem; padding: .6rem .9rem; }
.scroll { overflow-x: auto; }
.widest::before { content: "Scrolls sideways →"; position: sticky; left: 0; font-size: .75rem;
  color: var(--muted); }
small { display: block; color: var(--muted); font-size: .75rem; font-weight: normal; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin-bottom: .6rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; vertical-align: top; }
th:first-child { text-align: left; }
thead th { white-space: normal; }
tbody th { font-weight: 600; }
.scores { width: 100%; background: var(--card); }
.scores th:first-child { position: sticky; left: 0; background: var(--card); }
.worded :is(th, td):last-child, .wordy th:first-child, .claims :is(th, td) { text-align: left;
  white-space: normal; min-width: 9rem; }
.wordy th:first-child small { max-width: 18rem; }
.claims { background: var(--card); width: 100%; }
.published :nth-child(-n+3) { text-align: left; }
.statistics th:first-child { white-space: normal; min-width: 9rem; }
.statistics td:nth-child(-n+4) { width: 1%; }
.statistics :is(th, td):nth-child(n+3) { text-align: left; }
.statistics td:nth-child(n+5) { white-space: normal; width: 28%; min-width: 11rem; }
.statistics tr:has(strong) td { background: rgb(213 94 0 / .14); }
#published-by-others { padding: 1rem; border: 1px dashed var(--muted); border-radius: .4rem; }
.side { display: grid; grid-template-columns: repeat(auto-fill, minmax(18.5rem, 1fr)); gap: 1rem; }
.confusion { width: 100%; table-layout: fixed; }
.confusion caption { color: var(--ink); font-weight: 600; }
.confusion th, .confusion td { padding: .2rem; border: 0; text-align: center; font-weight: 400; }
.confusion th:first-child { width: 24%; text-align: left; vertical-align: middle; }
.confusion td span { display: block; text-align: center; padding: .3rem 0; border-radius: .25rem;
  background: rgb(var(--heat) / calc(.06 + .5 * var(--share))); }
.confusion td small { color: inherit; }
.chip { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .3em; }
figure { margin: 0 0 1rem; background: var(--card); border-radius: .4rem; padding: 1rem; }
.narrow { display: flex; flex-wrap: wrap; gap: .6rem 2rem; }
.narrow > .scroll { flex: 3 1 17rem; max-width: 34rem; }
.narrow svg { width: 100%; }
.narrow figcaption { flex: 2 1 16rem; }
figure svg { display: block; height: auto; max-width: 100%; }
figure svg text { font-family: inherit !important; }
.wide svg { width: 100%; min-width: 40rem; }
pre { white-space: pre-wrap; font-size: .8rem; }
summary { cursor: pointer; }
@media (max-width: 40rem) { .wider::before, .wide .scroll::before {
  content: "Scrolls sideways →"; position: sticky; left: 0; font-size: .75rem;
  color: var(--muted); }
  .scores th:first-child, .published th:first-child {
  white-space: normal; width: 6.5rem; min-width: 6.5rem; } th, td { padding: .35rem; }
  .scores th:first-child { box-shadow: inset 0 -1px var(--line); }  /* its border stays behind */
  .claims thead { display: none; } .claims :is(th, td) { display: block; border: 0; }
  .claims tr { border-bottom: 1px solid var(--line); }
  figure { padding: .7rem .5rem; } .lead p { font-size: 1rem; } }
@media print { h2, h3, .findings { break-after: avoid; }
  body { background: #fff; font-size: 10pt; } .scroll { overflow: visible; }
  figure, table { break-inside: avoid; }
  .wide svg { min-width: 0; }
  details::details-content { content-visibility: visible; block-size: auto; }
  * { print-color-adjust: exact; } }
"""
