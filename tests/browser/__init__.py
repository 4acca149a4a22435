"""Tests in a real browser: ``make test-browser``. They skip, saying so, where there is no chromium."""
