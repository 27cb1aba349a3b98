"""What lies at the watched place, and when to look."""
