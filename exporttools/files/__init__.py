"""Files: written durably, digested, found wanting, read and written as Parquet, shipped with the package. Knows no records."""
