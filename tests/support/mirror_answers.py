"""How `MirrorSimulator` answers one request: rightly, or in one of the ways in which mirrors fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """How one request is answered; made by the functions below.

    Args:
        kind: What happens.
        number: Its measure: a status, an offset in the body, bytes a second.
        text: Its words: a URL, a header.
        headers: More headers.
    """

    kind: str
    number: float = 0
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()


def good() -> Answer:
    """The file, or the range of it that was asked for."""
    return Answer("good")


def status(code: int, retry_after: str | int | None = None) -> Answer:
    """An error status with a short text body; 429 and 503 may ask to wait."""
    headers = () if retry_after is None else (("Retry-After", str(retry_after)),)
    return Answer("status", code, headers=headers)


def html(content_type: str = "text/html; charset=utf-8") -> Answer:
    """A login page with status 200 instead of the file, and what the server calls it."""
    return Answer("html", text=content_type)


def wrong_bytes() -> Answer:
    """As many bytes as the file has, and every one of them another."""
    return Answer("wrong")


def other_file(size: int) -> Answer:
    """Another file, of another size."""
    return Answer("other", size)


def truncated(at: int) -> Answer:
    """The headers of the whole answer, the file up to a position, and the connection is closed."""
    return Answer("truncated", at)


def cut_without_length(at: int) -> Answer:
    """No Content-Length, the file up to a position, and the connection is closed as if that were all."""
    return Answer("cut", at)


def stalled(after: int) -> Answer:
    """The file up to a position, then nothing while the connection stays open."""
    return Answer("stalled", after)


def silent() -> Answer:
    """No answer at all while the connection stays open."""
    return Answer("silent")


def reset(after: int = -1) -> Answer:
    """The connection is reset at a position of the file, or before the headers."""
    return Answer("reset", after)


def trickle(bytes_per_s: float) -> Answer:
    """The right bytes, slowly."""
    return Answer("trickle", bytes_per_s)


def range_ignored() -> Answer:
    """Status 200 and the whole file, whatever range was asked for."""
    return Answer("range_ignored")


def wrong_range(shift: int = 1) -> Answer:
    """Status 206 with another range than the one asked for."""
    return Answer("wrong_range", shift)


def gzipped() -> Answer:
    """The whole file with Content-Encoding: gzip, though nobody asked for it."""
    return Answer("gzip")


def chunked() -> Answer:
    """The file in chunks, with no Content-Length."""
    return Answer("chunked")


def redirect(url: str) -> Answer:
    """Status 302 to another URL."""
    return Answer("redirect", text=url)
