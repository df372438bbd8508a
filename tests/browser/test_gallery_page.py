"""The page of a bulk run's movies: search, filters, order, and movies that play while they are pointed at."""

import numpy as np
import pytest

from vivit_lab.bulk.render import Card, Gallery, write_page
from vivit_lab.video import MovieWriter


@pytest.fixture
def gallery(tmp_path, new_page):
    for folder in ("movies", "thumbnails"):
        (tmp_path / folder).mkdir()
    cards = []
    for number, (label, right) in enumerate([("up", True), ("down", False), ("left", True)]):
        with MovieWriter(tmp_path / "movies" / f"id{number}.mp4", 32, 48, end=2.0) as movie:
            for index in range(20):
                movie.write(np.full((32, 48, 3), 40 * number + index, np.uint8), index / 10)
        (tmp_path / "thumbnails" / f"id{number}.jpg").write_bytes(b"")
        scores = {"peak": [0.2, 0.9, 0.5][number]}
        cards.append(Card(f"id{number}", f"{number}.mp4", f"/x/{number}.mp4", None, "up", 0.7, label, right, scores))
    cards.append(Card("id3", "3.mp4", "/x/3.mp4", None, None, None, None, None, {}, "the video is gone"))
    shown_on = Gallery("a run", "share", (0.0, 1.0), 99.0, [(0, 0, 0), (255, 255, 255)], cards)
    write_page(shown_on, tmp_path / "index.html")
    page = new_page()
    page.goto((tmp_path / "index.html").as_uri())
    return page


def shown(page):
    return page.locator(".facts small:nth-last-child(2)").all_text_contents()


def test_it_filters_and_sorts(gallery):
    assert shown(gallery) == ["id0", "id1", "id2", "id3"]
    gallery.select_option("#sort", "peak")
    assert shown(gallery) == ["id1", "id2", "id0", "id3"]
    assert gallery.locator(".score").first.text_content() == "peak 0.900"
    gallery.check("#reverse")
    assert shown(gallery) == ["id0", "id2", "id1", "id3"]
    gallery.select_option("#which", "wrong")
    assert shown(gallery) == ["id1"]
    assert gallery.locator("#count").text_content() == "1 of 4 clips"
    gallery.select_option("#which", "")
    gallery.select_option("#class", "left")
    assert shown(gallery) == ["id2"]
    gallery.select_option("#class", "")
    gallery.fill("#text", "/X/0")
    assert shown(gallery) == ["id0"]
    gallery.fill("#text", "")
    assert "the video is gone" in gallery.locator(".card").nth(3).text_content()


def test_a_movie_plays_while_it_is_pointed_at(gallery):
    first = gallery.locator(".stage").first
    first.hover()
    gallery.wait_for_function("() => document.querySelector('.stage video')?.currentTime > 0.1")
    assert gallery.locator("video").count() == 1
    gallery.mouse.move(2, 2)
    gallery.wait_for_function("() => !document.querySelector('.stage video')")
    first.locator("img").wait_for(state="attached")


def test_a_tap_plays_and_a_key_stops_it(gallery):
    first = gallery.locator(".stage").first
    first.dispatch_event("mouseenter")  # what a tap sends
    first.focus()
    first.dispatch_event("click", {"detail": 1})
    gallery.wait_for_function("() => document.querySelector('.stage video')?.currentTime > 0.1")
    gallery.keyboard.press("Enter")
    gallery.wait_for_function("() => !document.querySelector('.stage video')")
