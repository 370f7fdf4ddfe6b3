"""How things are written: as JSON, in files that are always whole, under locks, and without secrets."""
