"""A conda prefix as it lies on disk: records, history, activation, byte-code, linking."""
