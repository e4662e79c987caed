//! The manual. Each chapter is a Markdown file of this folder.

#[doc = include_str!("how_it_works.md")]
pub mod how_it_works {}
#[doc = include_str!("operating.md")]
pub mod operating {}
#[doc = include_str!("proxies.md")]
pub mod proxies {}
#[doc = include_str!("neon.md")]
pub mod neon {}
#[doc = include_str!("better_auth.md")]
pub mod better_auth {}
#[doc = include_str!("client.md")]
pub mod client {}
#[doc = include_str!("claims.md")]
pub mod claims {}
#[doc = include_str!("walks.md")]
pub mod walks {}
#[doc = include_str!("museum.md")]
pub mod museum {}
#[doc = include_str!("growth.md")]
pub mod growth {}
#[doc = include_str!("decisions.md")]
pub mod decisions {}
