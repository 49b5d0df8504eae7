"""The page of a chain: where its boxes and arrows lie, what an unfinished one shows, and that every text is escaped."""

import re
from typing import Any

import pytest

from netpress.report.chain import BOX, Link, draw_chain, render_chain, tabulate

FIGURES = {"accuracy": 0.912, "score": 0.034, "params": 12345.0, "operations": 1e6, "file_bytes": 900, "seconds": 61.0}
UGLY = "<script>alert('x')</script> & \"quotes\""


def link(name: str, state: str = "done", description: str = "", figures: Any = None, **needs: str) -> Link:
    figures = (FIGURES if state == "done" else {}) if figures is None else figures
    return Link(name, needs, description, "digits", state, "official", figures)


CHAINS = {
    "one": [link("a")],
    "line": [link("a"), link("b", a="is taught by"), link("c", b="begins with")],
    "fan": [link("a"), *(link(f"p{number}", a="is taught by") for number in range(9))],
    "diamond": [
        link("a"),
        link("b", a="is taught by"),
        link("c", a="is taught by"),
        link("d", b="begins with", c="is taught by", a="is taught by"),
    ],
    "apart": [link("a"), link("b"), link("c", b="begins with")],
    "skips": [link("a"), link("b", a="is taught by"), link("c", b="is taught by", a="is taught by")],
    "long": [link("n0"), *(link(f"n{number}", **{f"n{number - 1}": "is taught by"}) for number in range(1, 64))],
}


def boxes_of(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg)]


@pytest.mark.parametrize("name", CHAINS)
def test_no_two_boxes_overlap_and_arrows_lead_from_left_to_right_past_all_others(name: str) -> None:
    links = CHAINS[name]
    svg = str(draw_chain(links, links[-1].name))
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)" style', svg)[0])
    boxes = boxes_of(svg)
    assert len(boxes) == len(links)
    for place, (x, y) in enumerate(boxes):
        assert x >= 0 and y >= 0 and x + BOX[0] <= width and y + BOX[1] <= height
        for right, down in boxes[place + 1 :]:
            assert abs(right - x) >= BOX[0] or abs(down - y) >= BOX[1]
    places = {one.name: box for one, box in zip(links, boxes, strict=True)}
    arrows = re.findall(r'<path class="arrow (\w+)" marker-end="[^"]*" d="([^"]*)"', svg)
    assert len(arrows) == sum(len(one.needs) for one in links)
    for kind, path in arrows:
        points = [tuple(map(float, pair.split(","))) for pair in re.findall(r"[\d.]+,[\d.]+", path)]
        start, end = points[0], points[-1]
        ours = next(box for box in boxes if start == (box[0] + BOX[0], box[1] + BOX[1] / 2))
        theirs = next(box for box in boxes if end[0] == box[0] - 1 and end[1] == box[1] + BOX[1] / 2)
        assert ours[0] < theirs[0]
        assert kind in ("begins", "teaches")
        for box in boxes:  # points of the curve, which a line between boxes must not cross
            if box not in (ours, theirs):
                for x, y in curve(points):
                    assert not (box[0] < x < box[0] + BOX[0] and box[1] < y < box[1] + BOX[1]), (name, path, places)


def curve(points: list[Any]) -> list[tuple[float, float]]:
    """Points of a path of cubic Bezier curves."""
    found = []
    for first in range(0, len(points) - 3, 3):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points[first : first + 4]
        for step in range(51):
            t = step / 50
            weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            found.append(
                (
                    sum(w * x for w, x in zip(weights, (x0, x1, x2, x3), strict=True)),
                    sum(w * y for w, y in zip(weights, (y0, y1, y2, y3), strict=True)),
                )
            )
    return found


def test_long_names_are_cut_and_a_small_screen_moves_the_drawing() -> None:
    svg = str(draw_chain([link("a" * 60, f"failed: {'b' * 99}")], "a" * 60))
    texts = re.findall(r'<text class="(\w+)"[^>]*>([^<]*)</text>', svg)
    assert [(kind, len(text)) for kind, text in texts] == [("title", 18), ("figures", 23)]
    assert all(text.endswith("…") for _, text in texts) and f"<title>{'a' * 60}</title>" in svg
    wide = re.findall(r'style="max-width:(\d+)px;min-width:(\d+)px"', str(draw_chain(CHAINS["long"], "n63")))
    assert [int(most) > int(least) > 5000 for most, least in wide] == [True]


def test_every_text_is_escaped() -> None:
    links = [link("a", description=UGLY), link("b", f"failed: {UGLY}", UGLY, a="is taught by")]
    page = render_chain("n", UGLY, "b", links, f'description = "{UGLY}"')
    assert "alert('x')" not in page.replace("&#39;", "'").replace("&lt;script&gt;alert('x')", "")
    assert page.count("<script>") == 1  # the page's own
    assert not re.search(r'(src|href)="(https?:)?//|url\((?!#)|@import', page)


def test_a_chain_under_way_says_how_far_it_is() -> None:
    links = [
        link("a"),
        link("b", "not finished", a="is taught by"),
        link("c", "failed: the loss is nan"),
        link("d", "not begun", c="begins with"),
    ]
    page = render_chain("n", "", "d", links, "")
    assert "not finished" in page and "1 of 4 networks finished" in page
    assert '<div class="notice"><ul><li>c failed: the loss is nan</li></ul></div>' in page
    assert "headlines" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert page.count("mark-shape") - page.count(".mark-shape") == 1  # one network in the plot
    assert [row[-1].text for row in tabulate(links).rows] == [one.state for one in links]
    assert set(re.findall(r'href="([^"]*)"', page)) == {"a/report.html"}  # the others have none yet
    nothing = render_chain("n", "", "a", [link("a", "not begun")], "")
    assert "No network is finished yet." in nothing and "0 of 1 networks finished" in nothing


def test_a_finished_chain_shows_its_result() -> None:
    figures = {**FIGURES, "beside": {"imt": {"score": 0.5}}}
    page = render_chain("n", "", "b", [link("a"), link("b", figures=figures, a="begins with")], "")
    assert "2 of 2 networks finished" in page and "netpress run" not in page
    assert "91.20%" in page and 'href="b/report.html"' in page
    assert "score (imt)" in page and "0.50000" in page
    box = re.findall(r'<a href="b/report.html"><g class="box result', page)
    assert len(box) == 1 and page.count('class="box result') == 1
