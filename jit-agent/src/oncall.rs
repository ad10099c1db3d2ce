//! The commands of the engineer on call. They work with and without a running agent.

mod agent;
pub mod audit;
pub mod check;
pub mod detach;
mod failure;
pub mod grants;
pub mod offline;
mod output;
pub mod status;

pub use failure::Failure;
pub(crate) use failure::{datapath_exit, file_exit};
