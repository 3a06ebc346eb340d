"""For the Python reference: a field made by `pipeline.settings.described` is documented by what it says there."""

from ast import literal_eval
from typing import Any

import griffe


class Described(griffe.Extension):
    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function) == "described":
            attr.value, meaning, *_rest = attr.value.arguments
            attr.docstring = griffe.Docstring(literal_eval(str(meaning)), parent=attr)
