"""OCI images straight from a lock: no daemon, no root access, and the same bytes on every machine."""
