"""Unpacked packages in the cache, so that making an environment again need not unpack and compile again."""
