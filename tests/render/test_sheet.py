"""A contact sheet has a tile for each tubelet row, and says what it shows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.render.scenes import GEOMETRIES, GRID, make_clip, make_map
from vivit_lab.errors import InputError
from vivit_lab.grid import TokenGrid
from vivit_lab.render import contact_sheet, sheet, to_frames
from vivit_lab.video import Geometry

SQUARE = Geometry.identity(32, 32)
MANY = TokenGrid(40, 2, 2, tubelet=(1, 16, 16))


def find(page: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Return every (top, left) at which a picture lies on a page."""
    height, width = picture.shape[:2]
    corners = (page == picture[0, 0]).all(axis=-1)
    return [
        (int(top), int(left))
        for top, left in np.argwhere(corners)
        if np.array_equal(page[top : top + height, left : left + width], picture)
    ]


def enlarged(frame: np.ndarray, factor: int) -> np.ndarray:
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def test_each_row_has_its_frame_and_its_overlay() -> None:
    clip, map = make_clip(SQUARE), make_map()
    page = np.asarray(contact_sheet(clip, map, columns=2))
    painted = to_frames(clip, map)
    places = []
    for row in range(3):
        (top, left), *more = find(page, enlarged(clip.frames[2 * row], 7))  # 240 // 32
        assert not more
        assert find(page, enlarged(painted[2 * row], 7)) == [(top + 7 * 32 + 8, left)]
        places.append((top, left))
    assert places[0][0] == places[1][0] < places[2][0]
    assert places[0][1] == places[2][1] < places[1][1]


def test_portrait_pictures_stand_side_by_side() -> None:
    clip, map = make_clip(Geometry.identity(40, 20).resize(32, 32)), make_map()
    page = np.asarray(contact_sheet(clip, map))
    ((top, left),) = find(page, enlarged(clip.frames[0], 6))
    assert find(page, enlarged(to_frames(clip, map)[0], 6)) == [(top, left + 6 * 20 + 8)]


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
@pytest.mark.parametrize("columns", [None, 1, 2, 99])
def test_nothing_reaches_into_the_margin(geometry: Geometry, columns: int | None) -> None:
    long = {
        "parameters": {"text": "long text " * 60},
        "target": "t" * 300,
        "model_id": "m/" * 200,
        "scale": "of " * 300,
    }
    for normalize in ("clip", "frame"):
        sheet = contact_sheet(make_clip(geometry), make_map(**long), columns=columns, normalize=normalize)
        page = np.asarray(sheet)
        for margin in (page[:20], page[-20:], page[:, :22], page[:, -22:]):
            assert (margin == 255).all()


def test_large_frames_are_scaled_down() -> None:
    clip = make_clip(Geometry.identity(720, 1280).resize(32, 32))
    small = contact_sheet(clip, make_map(), columns=3)
    assert small.width == 3 * 240 + 2 * 24 + 2 * 24
    assert small.mode == "RGB"


def test_evenly_spaced_rows_of_a_long_clip(tmp_path: Path) -> None:
    clip, map = make_clip(SQUARE, 40), make_map(MANY)
    contact_sheet(clip, map, tmp_path / "sheet.png", max_frames=5)
    assert json.loads(_text(tmp_path / "sheet.png")["vivit_lab"])["rows"] == [0, 10, 20, 29, 39]
    all_rows = contact_sheet(clip, map, max_frames=100)
    assert all_rows.height * all_rows.width > 5 * contact_sheet(clip, map, max_frames=5).height * 240


def _text(path: Path) -> dict[str, str]:
    with Image.open(path) as image:
        image.load()
        return dict(image.text)  # type: ignore[attr-defined]


def test_the_png_carries_what_it_shows(tmp_path: Path) -> None:
    clip, map = make_clip(SQUARE), make_map(target="class 3: Žluť", model_id="a/b")
    page = contact_sheet(clip, map, tmp_path / "sheet.PNG", limits=(0, 2))
    with Image.open(tmp_path / "sheet.PNG") as written:
        np.testing.assert_array_equal(np.asarray(written), np.asarray(page))
    text = _text(tmp_path / "sheet.PNG")
    contents = json.loads(text["vivit_lab"])
    assert contents["map"] == map.metadata()
    assert contents["limits"] == [[0.0, 2.0]] * 3
    assert contents["colormap"] == "inferno"
    assert contents["rows"] == [0, 1, 2]
    assert contents["seconds"] == pytest.approx([0, 0.08, 0.16])
    assert contents["clip"] == "dog.mp4"
    assert "private" not in "".join(text.values())
    assert text["Title"].startswith("AttentionRollout(head_fusion=mean) target: class 3")


def test_the_scale_is_drawn() -> None:
    clip, map = make_clip(SQUARE), make_map()
    sheets = [
        contact_sheet(clip, map),
        contact_sheet(clip, map, normalize="frame"),
        contact_sheet(clip, map, limits=(0, 2)),
        contact_sheet(clip, make_map(relevance=torch.zeros(GRID.shape))),
        contact_sheet(clip, make_map(relevance=-torch.rand(GRID.shape), signed=True)),
    ]
    headers = [np.asarray(sheet)[:150] for sheet in sheets]
    for index, header in enumerate(headers):
        assert all(not np.array_equal(header, other) for other in headers[index + 1 :])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every block of lines of text that is drawn on a sheet, in order."""
    blocks: list[list[str]] = []
    real = sheet.draw_lines
    monkeypatch.setattr(
        sheet, "draw_lines", lambda image, lines, *rest: blocks.append(lines) or real(image, lines, *rest)
    )
    return blocks


def test_each_tile_says_its_own_time_frames_and_share(drawn: list[list[str]]) -> None:
    clip = make_clip(SQUARE, seconds=[1.0, 1.5, 1.6, 1.7, 2.7, 2.8])
    relevance = torch.ones(GRID.shape) * torch.tensor([1.0, 2.0, 5.0])[:, None, None]
    contact_sheet(clip, make_map(relevance=relevance))
    assert drawn[-3:] == [
        ["1.000 s - 1.600 s", "frames 0, 3", "12.5 % of the relevance"],
        ["1.600 s - 2.700 s", "frames 6, 9", "25 % of the relevance"],
        ["2.700 s - 2.840 s", "frames 12, 15", "62.5 % of the relevance"],
    ]
    # of more rows than tiles, each tile has the caption of its own row
    drawn.clear()
    contact_sheet(clip, make_map(relevance=relevance), max_frames=2)
    assert [block[0] for block in drawn[-2:]] == ["1.000 s - 1.600 s", "2.700 s - 2.840 s"]


def test_the_header_says_where_the_scale_ends_and_what_is_outside(drawn: list[list[str]], tmp_path: Path) -> None:
    padded, map = Geometry.identity(16, 32).pad(0, 0, 16, 0), make_map(relevance=torch.ones(GRID.shape))
    contact_sheet(make_clip(padded), map, tmp_path / "sheet.png", percentile=99)
    lines = [line for block in drawn[:3] for line in block]
    assert "50.0 % of the relevance lies outside the frame" in lines
    assert "one scale for the clip, to its 99th percentile: sums to 1" in lines
    contents = json.loads(_text(tmp_path / "sheet.png")["vivit_lab"])
    assert (contents["percentile"], contents["outside"]) == (99, 0.5)


def test_of_the_maps_file_the_png_has_the_name_only(tmp_path: Path) -> None:
    clip = make_clip(SQUARE)
    for path, name in ((clip.path, "dog.mp4"), (None, None)):
        map = make_map(sources=[{"path": path, "geometry": SQUARE.to_dict()}])
        contact_sheet(replace(clip, path=path), map, tmp_path / "sheet.png")
        text = _text(tmp_path / "sheet.png")
        assert "private" not in "".join(text.values())
        assert json.loads(text["vivit_lab"])["map"]["sources"] == [{"path": name, "geometry": SQUARE.to_dict()}]


@pytest.mark.parametrize("frames_per_row", [1, 3])
def test_captions_for_any_tubelet_depth(frames_per_row: int) -> None:
    grid = TokenGrid(2, 4, 4, tubelet=(frames_per_row, 8, 8))
    repeated = make_clip(SQUARE, 2 * frames_per_row, seconds=[1.0] * (2 * frames_per_row))
    steady = make_clip(SQUARE, 2 * frames_per_row)
    pages = [np.asarray(contact_sheet(clip, make_map(grid))) for clip in (repeated, steady)]
    assert pages[0].shape == pages[1].shape
    assert (pages[0] != pages[1]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": 0}, "columns must be a positive integer, got 0"),
        ({"columns": True}, "columns must be a positive integer, got True"),
        ({"max_frames": 2.5}, "max_frames must be a positive integer, got 2.5"),
        ({"path": "sheet.jpg"}, "wanted a path that ends in .png, got 'sheet.jpg'"),
        ({"interpolation": "cubic"}, "interpolation must be"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        contact_sheet(make_clip(SQUARE), make_map(), **arguments)
