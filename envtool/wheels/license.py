"""The licence that a wheel states, and whether it is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from email.parser import HeaderParser
from typing import Any

_NO_LICENSE = ("", "unknown", "none")


def license_of(metadata: str) -> str | None:
    """The licence that the METADATA of a wheel states, the most precise field first (PyPA core metadata)."""
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


def is_allowed(license: str, allowed: Sequence[str], denied: Sequence[str]) -> bool:
    """Whether a package may be used under its licence, an SPDX expression or one other text: of `A OR B` one has to be
    allowed, of `A AND B` both; without `allowed` all are that are not denied."""
    from license_expression import ExpressionError, LicenseWithExceptionSymbol, get_spdx_licensing

    licensing = get_spdx_licensing()

    def holds(node: Any) -> bool:
        if isinstance(node, licensing.OR):
            return any(map(holds, node.args))
        if isinstance(node, licensing.AND):
            return all(map(holds, node.args))
        # `A WITH B` gives more rights than A alone: either name decides.
        names = {str(node), str(node.license_symbol)} if isinstance(node, LicenseWithExceptionSymbol) else {str(node)}
        return (not allowed or not names.isdisjoint(allowed)) and names.isdisjoint(denied)

    try:
        return holds(licensing.parse(license, validate=False))
    except ExpressionError:
        return (not allowed or license in allowed) and license not in denied
