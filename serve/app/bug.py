"""What a client is told when a handler raises what nobody foresaw."""

from __future__ import annotations

import traceback

from serve.app.exchange import Answer, fail
from serve.server import Server


def report_bug(server: Server, path: str, error: BaseException) -> Answer:
    """Log what was raised, and answer 500; the client learns nothing of the inside.

    Args:
        server: whose log gets all of it.
        path: of the request.
        error: what was raised.
    """
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    next(server.runtimes).log.emit("request_failed", path=path, reason=repr(error), traceback="".join(lines))
    return fail(500, "the server failed on this request; its log says why")
