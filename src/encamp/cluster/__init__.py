"""One API over all engines: hosts, slots, spawned tasks, messages and events."""
