"""The forms in which a request's body may come and an answer's may go, as functions of bytes and numpy arrays.

Nothing here knows a model, a server or torch. Whatever the bytes are, the only error is `RequestError`, and what is
kept in memory is bounded by a small multiple of the body's length: sizes are checked before anything is allocated."""
