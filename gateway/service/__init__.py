"""The composition root: makes the real clock, joins sources, journal, routes and sinks, starts and stops them in order."""
