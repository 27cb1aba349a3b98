"""Model instances of the served models, and predictions by them."""
