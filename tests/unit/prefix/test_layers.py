"""Layers of a layout that are used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from envtool.image.layout import CONFIG, MANIFEST, OTHER_DEFLATE, Layout, Member

MEMBERS = [Member("a", b"x" * 1000)]


@pytest.mark.parametrize("annotations", [None, {}, {OTHER_DEFLATE: "true"}])
def test_a_layer_is_used_again_unless_another_library_compressed_it(
    annotations: dict[str, str] | None, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    layout.begin()
    layer = layout.layer("x", MEMBERS, None)
    config = layout.put_json({"rootfs": {"diff_ids": [layer.diff_id]}}, CONFIG)
    stated: dict[str, Any] = {**layer.descriptor, "annotations": annotations}
    layout.finish("t", [layout.put_json({"layers": [stated], "config": config}, MANIFEST)], [])
    blob = layout.path(stated)
    before = blob.stat().st_ino
    assert Layout(tmp_path).layer("x", MEMBERS, None) == layer
    assert (blob.stat().st_ino == before) is not bool(annotations)
