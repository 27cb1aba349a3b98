"""From a checkpoint that was seen to the live generation of every worker, and back."""
