"""Every log event, metric and health answer, declared once; nothing here ever holds a byte of a peer."""
