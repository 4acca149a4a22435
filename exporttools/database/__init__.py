"""The only room that reads a database: the store, its layouts and readers. Nothing is ever written."""
