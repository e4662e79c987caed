//! latchkey, in reading order: from the start of the program down to the bytes. A module uses only those below it.

pub mod app;
pub mod check;
pub mod cli;
pub mod operator;

pub mod auth;
pub mod pages;
pub mod tasks;

pub mod http;

pub mod store;

pub mod credentials;
pub mod hasher;
pub mod token;

pub mod config;

pub mod cors;

pub mod database;
pub mod error;
pub mod json;
pub mod listener;
pub mod logging;
