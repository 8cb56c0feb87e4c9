"""`make bench-bulk`: what bulk scoring costs over a raw loop, and how it grows with rows and nodes."""
