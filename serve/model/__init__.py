"""From verified bytes to a model that answers: loading, gates, batchability, warm-up."""
