//! What the engineer on call runs, with the agent alive or dead.

pub mod offline;
