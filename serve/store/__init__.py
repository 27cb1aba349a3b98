"""The host's store: verified checkpoint files, ledger, quarantine, operator requests."""
