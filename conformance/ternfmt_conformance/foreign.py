"""Text that a testee wrote, made fit for terminals, XML and HTML."""

from __future__ import annotations

import re

LENGTH_MAX = 4000

_UNFIT = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """The text, cut to 4000 characters; control characters and surrogates become U+FFFD."""
    cut = text if len(text) <= LENGTH_MAX else f"{text[:LENGTH_MAX]} ... ({len(text)} characters)"
    return _UNFIT.sub("\ufffd", cut)
