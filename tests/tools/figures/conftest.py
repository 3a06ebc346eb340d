"""What matplotlib was asked to draw."""

from typing import Any

import pytest


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """matplotlib's figures in the order in which the test makes them."""
    figure_module = pytest.importorskip("matplotlib.figure", reason="pictures need matplotlib")
    made, found = figure_module.Figure.__init__, []

    def remember(self: object, *args: object, **options: object) -> None:
        made(self, *args, **options)
        found.append(self)

    monkeypatch.setattr(figure_module.Figure, "__init__", remember)
    return found
