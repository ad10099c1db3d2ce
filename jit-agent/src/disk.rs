//! What survives a restart: the database (`store`), the audit, the key that signs the audit, the
//! last good configuration, the trial of another one, the host's id where it was found, and the
//! certificate that was renewed.

pub mod audit;
pub mod closings;
pub mod host_id;
pub mod host_key;
pub mod last_good;
pub mod openings;
pub(crate) mod own_thread;
pub mod renewed;
mod room;
pub(crate) mod sizes;
pub mod store;
pub mod trial;

pub use own_thread::Unanswered;
