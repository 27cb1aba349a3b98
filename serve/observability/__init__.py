"""Access log, spans, status page, telemetry."""
