//! Between rouille and the handlers: requests as handlers read them, replies as clients get them, CORS.

mod address;
pub mod cors;
mod reply;
mod request;

pub use address::TrustedProxies;
pub use reply::{json, json_page, no_content, problem, segment};
pub use request::{Body, ClientInfo, RequestContext, bearer, query, segments, without_nul};
