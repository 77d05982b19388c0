"""The configuration file: field types, tables, loading, linting (all issues at once)."""
