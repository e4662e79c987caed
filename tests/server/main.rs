//! Every test of the shipped binary from outside: HTTP, sockets, the command line. Run by `make test`, which brings the
//! PostgreSQL cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must fail at once"
)]

mod abuse;
mod accounts;
mod check;
mod commands;
mod configuration;
mod connection_strings;
mod conventions;
mod external;
mod external_issuer;
mod external_keys;
mod external_tokens;
mod faults;
mod install;
mod issuer;
mod listener;
mod log;
mod migrations;
mod neon;
mod nginx;
mod operations;
mod peers;
mod proxies;
mod recipes;
mod sessions;
mod statements;
mod support;
mod tasks;
mod throttle;
mod tokens;
mod web;
