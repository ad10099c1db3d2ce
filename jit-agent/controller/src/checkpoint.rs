//! Checkpoints: what each host must have received by a moment, so that a hub that holds something back is
//! noticed by the host itself.

pub mod mailboxes;
pub mod tree;
