"""Check the shape annotations of the records of a test that asks for it."""

import pytest
from beartype import beartype
from jaxtyping import jaxtyped

from vivit_lab.records import AttentionRecord


@pytest.fixture
def _checked_shapes(monkeypatch):
    for name in ("rows", "columns", "pattern", "log_sum_exp", "entropy", "propagate"):
        method = jaxtyped(typechecker=beartype)(getattr(AttentionRecord, name))
        monkeypatch.setattr(AttentionRecord, name, method)
