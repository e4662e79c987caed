//! What the measurements share: programs and their processes, load, what the database is asked. `bin/compare.rs` is
//! `make bench`, `bin/growth.rs` is `make bench-growth`; the rest of `bin/` is what latchkey is compared with.

pub mod client;
pub mod fill;
pub mod flood;
pub mod load;
pub mod peer;
pub mod plan;
pub mod process;
pub mod proxy;
pub mod setup;
pub mod table;
pub mod trips;
