//! jit-agent: ports closed in the kernel, opened by signed, time-limited grants.
//!
//! The folders are the layers. A layer imports only from those to its left:
//!
//! ```text
//! rules <- kernel, disk <- gate <- control <- oncall <- cli, app, main
//! ```
//!
//! `system` and `config` serve all of them but `rules`.

// These panic when the reader is gone: `oncall/output.rs` and `system/log.rs` write instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod disk;
pub mod gate;
pub mod kernel;
pub mod oncall;
pub mod rules;
pub mod system;
