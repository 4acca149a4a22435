"""How a database is named, its column types in SQL, and its drivers' errors as ours. Opens nothing."""
