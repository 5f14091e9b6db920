"""The word for where weights may come from. A value alone: who only hands it on loads no torch."""

from __future__ import annotations

from typing import Literal

Policy = Literal["auto", "hub", "builtin"]
"""For weights that nobody named: the hub and, if it cannot be had, the built-in ones; the hub or
an error; the built-in ones without asking any network."""
