"""Hooks of the site's builder: files outside of docs/ that pages link to become part of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OUTSIDE = {"bench/results": ("*.md", "*.svg"), "channel": ("README.md",), ".": ("CONTRIBUTING.md", "SECURITY.md")}


def on_files(files: Any, config: Any) -> Any:
    """Add them, under `files/`."""
    for folder, patterns in OUTSIDE.items():
        for path in (found for pattern in patterns for found in sorted((ROOT / folder).glob(pattern))):
            name = f"files/{path.relative_to(ROOT).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links lead there."""
    up = "../" * page.file.src_uri.count("/")
    if page.file.src_uri.startswith("files/"):
        return re.sub(r"\]\((\.\./)*docs/", f"]({up}", markdown)
    return re.sub(r"\]\((?:\.\./)+(bench/results/|channel/README|CONTRIBUTING|SECURITY)", rf"]({up}files/\1", markdown)
