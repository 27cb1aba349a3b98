"""The commit of many machines: each host moves to a new generation at one instant, or none does."""
