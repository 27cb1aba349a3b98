"""The licence that a wheel states."""

from __future__ import annotations

from email.parser import HeaderParser

_NO_LICENSE = ("", "unknown", "none")


def license_of(metadata: str) -> str | None:
    """The licence that the METADATA of a wheel states, the most precise field first.

    Source: PyPA core metadata specification, "License-Expression", "License", "Classifier".
    """
    headers = HeaderParser().parsestr(metadata)
    for field in ("License-Expression", "License"):
        text = str(headers.get(field, "")).strip()
        if known := known_license(text.splitlines()[0] if text and len(text) < 200 else None):
            return known
    classifiers = [str(each) for each in headers.get_all("Classifier", []) if str(each).startswith("License ::")]
    return classifiers[0].rpartition(" :: ")[2] if classifiers else None


def known_license(text: str | None) -> str | None:
    """The text of a licence, or None where it is a word for none."""
    return text if text and text.strip().lower() not in _NO_LICENSE else None
