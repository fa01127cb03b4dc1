"""encamp's side of what the peers measure, in programs that print the same line."""
