"""What an operator touches: the command line, the admin socket and the HTTP endpoints."""
