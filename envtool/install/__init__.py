"""Create, repair and update of a prefix."""
