"""Images as arrays: PNG and JPEG through Pillow, which the extra `images` brings. The only door to Pillow.

An image is not turned by its Exif orientation."""

from __future__ import annotations

import io

import numpy as np

from serve.codec.datatypes import Array
from serve.errors import RequestError

CONTENT_TYPES = ("image/png", "image/jpeg")
_FORMATS = ("PNG", "JPEG")
MOST_PIXELS = 32 * 1024 * 1024  # 3 bytes each: what one request may take, whatever its image was compressed to


def decode(body: bytes, most_pixels: int = MOST_PIXELS) -> Array:
    """Read an image: [height, width, 3] of uint8, in RGB; raises `RequestError`, for a large one before it is made."""
    try:
        from PIL import Image
    except ImportError as error:
        said = "expected a server with Pillow, found none; its operator installs the extra [images]"
        raise RequestError(415, f"the image: {said}") from error
    try:
        with Image.open(io.BytesIO(body), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > most_pixels:
                raise RequestError(413, f"the image: expected at most {most_pixels} pixels, found {width} by {height}")
            return np.asarray(image.convert("RGB"))
    except RequestError:
        raise
    except Exception as error:  # what Pillow's readers raise for damaged files is not bounded by its documentation
        found = f"{type(error).__name__}: {error}"
        raise RequestError(400, f"the image: expected a whole {' or '.join(_FORMATS)} file, found {found}") from error
