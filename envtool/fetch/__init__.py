"""Downloads over the network: proven bytes, failover between hosts, credentials, TLS."""
