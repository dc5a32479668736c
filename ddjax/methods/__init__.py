"""The explicit table of methods by name; a user's own method needs no entry here."""

from ddjax.methods.base import Context, Method
from ddjax.methods.sre2l import SRe2L
from ddjax.methods.teddy import Teddy

METHODS: dict[str, type[Method]] = {"teddy": Teddy, "sre2l": SRe2L}

__all__ = ["METHODS", "Context", "Method", "SRe2L", "Teddy"]
