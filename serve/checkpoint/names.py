"""What versions and names may be."""

from __future__ import annotations

import re

# Versions and names become response headers and file names, so they are plain words.
WORD = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,127}")
