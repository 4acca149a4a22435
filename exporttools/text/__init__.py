"""Text: untrusted text made harmless, untrusted JSON parsed strictly, numbers put into words. Knows no records."""
