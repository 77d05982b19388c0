"""One file per kind of destination. See README.md beside this file."""
