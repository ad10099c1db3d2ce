//! The commands of the engineer on call. `status`, `grants`, `why`, `check`, `doctor`, `enrol`, `identity`, `init` and `audit` need
//! no running agent; `break-glass`, `confirm`, `denials`, `enforce` and `policy` need one; `close` asks one, and does without if it must;
//! `detach` refuses while one runs.

mod agent;
pub mod audit;
pub mod break_glass;
pub mod check;
pub mod close;
pub mod confirm;
pub mod denials;
pub mod detach;
pub mod doctor;
pub mod enforce;
pub mod enrol;
mod failure;
mod finding;
pub mod grants;
pub mod identity;
pub mod init;
mod names;
pub mod offline;
mod output;
mod pager;
pub mod policy;
mod ssh_session;
pub mod status;
pub mod why;

pub use failure::Failure;
pub(crate) use failure::datapath_exit;
pub use output::{complain, unless_closed};
