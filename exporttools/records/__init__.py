"""The four records: their columns as data, what a value may be, and the snapshots that hold them. No database, no file."""
