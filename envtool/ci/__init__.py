"""The reproducibility check that CI runs, and its report."""
