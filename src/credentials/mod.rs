//! E-mail and password as types that hold only valid values, and the queue in which passwords are hashed.

mod email;
pub mod hash_queue;
mod hasher;
mod password;

pub use email::Email;
pub use hasher::PasswordHasher;
pub use password::Password;
