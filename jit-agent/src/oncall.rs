//! The commands of the engineer on call. `status`, `grants`, `check` and `audit` need no running
//! agent; `policy` needs one; `detach` refuses while one runs.

mod agent;
pub mod audit;
pub mod check;
pub mod detach;
mod failure;
pub mod grants;
mod names;
pub mod offline;
mod output;
mod pager;
pub mod policy;
pub mod status;

pub use failure::Failure;
pub(crate) use failure::datapath_exit;
pub use output::complain;
