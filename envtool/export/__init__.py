"""A lock in the formats of other tools. Each module is one format; all of them are pure functions of the lock."""
