"""The only sockets, TLS, HTTP and devices' ports of this program: moves bytes, knows no protocol, maps every foreign error."""
