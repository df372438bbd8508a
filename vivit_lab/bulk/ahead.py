"""Decoding ahead of the model: what the decoders of all engines share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from vivit_lab.bulk.rows import ClipRow, Outcome

__all__ = ["ReadAhead"]


class ReadAhead(ABC):
    """Has clips decoded before they are asked for, and gives them in order; where they are decoded is the engine's.

    Args:
        ahead: clips that are decoded or being decoded before they are asked for.
    """

    def __init__(self, ahead: int) -> None:
        self.ahead = ahead
        self._queued: deque[tuple[ClipRow, Any]] = deque()
        self._plan: Iterator[ClipRow] = iter(())

    @abstractmethod
    def _submit(self, row: ClipRow) -> Any:
        """Have a clip decoded; return what it can be waited for with."""

    @abstractmethod
    def _result(self, row: ClipRow, ticket: Any) -> Outcome:
        """Wait for a clip; one that crashes or hangs its decoder is a ``Failure``."""

    @abstractmethod
    def _cancel(self, ticket: Any) -> None:
        """Forget a clip that nobody will ask for."""

    def expect(self, rows: Iterable[ClipRow]) -> None:
        """Name the clips that will be asked for, in order, so that they are decoded across the ends of shards."""
        self._drop()
        self._plan = iter(rows)

    def expect_then(self, rows: Iterable[ClipRow]) -> None:
        """Name the clips that will be asked for after those that are expected already."""
        self._plan = chain(self._plan, rows)

    def begin(self) -> bool:
        """Start decoding what is expected; return whether there is anything to wait for."""
        self._fill()
        return bool(self._queued)

    def __call__(self, rows: Sequence[ClipRow]) -> Iterator[Outcome]:
        """Go through the clips of rows, in their order."""
        self.begin()
        if rows and (not self._queued or self._queued[0][0] != rows[0]):
            self.expect(rows)  # something else than was expected
        for row in rows:
            self._fill()
            _, ticket = self._queued.popleft()
            outcome = self._result(row, ticket)
            self._fill()
            yield outcome

    def _drop(self) -> None:
        for _, ticket in self._queued:
            self._cancel(ticket)
        self._queued.clear()

    def _fill(self) -> None:
        while len(self._queued) < self.ahead:
            row = next(self._plan, None)
            if row is None:
                return
            self._queued.append((row, self._submit(row)))
