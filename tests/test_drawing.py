"""Results are drawn by what is registered for their type."""

from dataclasses import dataclass

import pytest

import vivit_lab as lab
from vivit_lab.drawing import draw, drawer
from vivit_lab.errors import InputError


@dataclass
class Finding:
    """A result of somebody's own."""

    text: str

    def _repr_html_(self):
        return draw(self)


class Special(Finding):
    """A result made from another."""


def test_a_view_of_ones_own_is_found_for_its_type_and_what_is_made_from_it():
    with pytest.raises(InputError, match="nothing draws Finding as 'html'; register a function with drawer"):
        Finding("a")._repr_html_()

    @drawer(Finding)
    def finding_html(result):
        return f"<b>{result.text}</b>"

    @drawer(Special, "figure")
    def special_figure(result, size):
        return result.text * size

    assert Finding("a")._repr_html_() == Special("a")._repr_html_() == "<b>a</b>"
    assert draw(Special("a"), "figure", 3) == "aaa"
    with pytest.raises(InputError, match="nothing draws Finding as 'figure'"):
        draw(Finding("a"), "figure", 3)


def test_each_type_that_the_package_draws_is_public():
    public = {name for package in ("attribution", "records", "bulk", "heads", "interventions", "faithfulness")
              for name in getattr(lab, package).__all__}  # fmt: skip
    assert set(lab.DRAWN_BY) <= public
