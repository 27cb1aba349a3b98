"""Trials of generations under real requests: evidence, rules, and the decision."""
