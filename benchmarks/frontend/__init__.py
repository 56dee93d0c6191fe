"""What the server's process costs per streamed token, behind a core that computes nothing.

`python -m benchmarks.frontend.run` starts the real server over `core`, reads its streams with `client`, and
prints one JSON row.
"""
