"""What is told of requests and swaps: logs, events, traces, and the view of operators."""
