"""Serve a PyTorch model under Flask and gunicorn, and replace it while requests flow.

A trainer publishes a checkpoint and, last of all, its marker (`<checkpoint>.done`). In every worker a reloader notices
the marker, copies the checkpoint into a read-only store, proves it there, and swaps it in by one assignment.

Importing this package imports neither torch nor Flask. Training, scaling over machines and choosing which requests
go to which model are out of scope.
"""
