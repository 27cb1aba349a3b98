"""OCI images straight from a lock: no daemon, no root rights, and the same bytes on every machine."""
