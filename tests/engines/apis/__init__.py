"""What ../versatile.py can do: one module for each family of requests. Each has `ROUTES`: path -> handler(answer)."""
