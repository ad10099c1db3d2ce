//! What survives a restart: the database (`store`), the audit, and the key that signs the audit.

pub mod audit;
pub mod host_key;
pub(crate) mod own_thread;
pub mod store;

pub use own_thread::Unanswered;
