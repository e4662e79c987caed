//! Every test of the shipped binary from outside: HTTP, sockets, the command line. Run by `make test`, which brings the
//! PostgreSQL cluster.
