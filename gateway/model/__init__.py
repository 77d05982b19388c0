"""The nouns of the house: values, errors, limits, protocols. Imports nothing of ours and does no I/O."""
