"""Known vulnerabilities and licences of a lock, looked up in files that others keep; no network is used."""
