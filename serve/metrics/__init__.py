"""What Prometheus is told: counted where it happens, added up over all workers of a server when it asks.

`observer` counts requests in plain Python, `families` names every metric and is the door to prometheus_client, `events`
turns log lines into counts, `host` reads what the files of a store and the kernel know, and `meter` puts them together.
"""
