"""Text from strangers: made harmless for where it is shown, parsed strictly, and the words that messages share."""
