"""The signature of a channel: `channel.json` names the files of its index by sha256, `channel.json.sig` signs that.

The repodata names every archive by sha256, so the signature covers all of the channel. Out of scope: how old an index
is. Whoever can put an older signed index in place of the newer one is not found out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envtool.errors import SignatureError
from envtool.signing import keyring

FORMAT = "envtool-channel-1"
INDEX = "channel.json"
SIGNATURE = "channel.json.sig"
FILES = (INDEX, SIGNATURE)


def seal(files: Mapping[str, bytes], key_file: Path | None) -> dict[str, bytes]:
    """The two files that sign an index, nothing without a key.

    Args:
        files: the content of each file of the index, by its path in the channel.
    """
    if key_file is None:
        return {}
    stated = {
        "format": FORMAT,
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
            for name, content in files.items()
        },
    }
    content = (json.dumps(stated, indent=1, sort_keys=True) + "\n").encode()
    return {INDEX: content, SIGNATURE: keyring.sign(content, key_file)}


def parse(content: bytes, name: str) -> dict[str, tuple[str, int]]:
    """The sha256 and size of each file of the index, by a `channel.json` whose signature was checked."""
    try:
        stated: dict[str, Any] = json.loads(content)
        if stated["format"] != FORMAT:
            raise ValueError(f"expected {FORMAT}, found {stated['format']!r}")
        return {path: (str(each["sha256"]), int(each["size_bytes"])) for path, each in stated["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SignatureError(f"{name} signs no channel: {error}", "sign the channel again") from None
