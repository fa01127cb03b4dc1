"""Engines: what starts agents on hosts and carries frames between them."""
