"""The watched place that checkpoints are published to."""
