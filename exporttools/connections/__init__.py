"""What names a database, and what its drivers say when it fails. Opens nothing."""
