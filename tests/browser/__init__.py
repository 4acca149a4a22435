"""Tests in a real browser: ``make test-browser``. Without chromium they skip and say so."""
