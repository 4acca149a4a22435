"""Files: durable writing, digests, findings, Parquet options, resources of the package. Knows no records."""
