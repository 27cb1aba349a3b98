"""From proven bytes to a model that may answer: reading, gates, warm-up."""
