"""Events: the structured log, the journal, the webhook."""
