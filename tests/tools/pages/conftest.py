"""What tests of pages share."""

from tests.browser import chromium

__all__ = ["chromium"]
