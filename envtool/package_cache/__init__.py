"""Unpacked packages kept between creates, and their placement into prefixes."""
