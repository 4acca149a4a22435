"""The four record types: columns as data, rules for values, and snapshots, tables and bundles in memory. Opens no database, no file."""
