//! latchkey as rooms, in reading order: from the start of the program down to the bytes. A room uses only rooms below it.

// The commands.
pub mod cli;
// The route table, and what every request passes.
pub mod app;
// The handlers.
pub mod api;
// rouille in and out.
pub mod http;
// All SQL of requests and commands.
pub mod store;
// Whom a token speaks for · how the database is asked.
pub mod database;
pub mod token;
// Tokens of another issuer · e-mail, passwords, hashing.
pub mod better_auth;
pub mod credentials;
// The environment, validated.
pub mod config;
// Failures and their words · strict JSON · the log · bytes to requests.
pub mod error;
pub mod json;
pub mod logging;
pub mod server;

// For people: the chapters of the manual.
pub mod manual;
