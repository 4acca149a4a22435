"""The only room that reads a database: the store, its layouts and readers. Never writes."""
