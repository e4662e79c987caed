//! rouille in and out: requests as handlers read them, replies as clients get them, CORS.

pub mod cors;
mod reply;
mod request;

pub use reply::{json, no_content, problem, segment};
pub use request::{Body, ClientInfo, RequestContext, bearer, query, segments, without_nul};
