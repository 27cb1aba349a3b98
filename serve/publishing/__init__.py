"""On the trainer's side: a checkpoint, whole, synced, and marked last."""
