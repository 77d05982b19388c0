"""Reads the journal, hands batches to a sink, settles what the receipts say. See README.md beside this file."""
