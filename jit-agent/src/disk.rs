//! What survives a restart: the database (`store`), the audit, the key that signs the audit, and the
//! last good configuration.

pub mod audit;
pub mod closings;
pub mod host_key;
pub mod last_good;
pub mod openings;
pub(crate) mod own_thread;
pub(crate) mod sizes;
pub mod store;

pub use own_thread::Unanswered;
