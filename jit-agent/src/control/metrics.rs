//! The agent in numbers, for Prometheus: over HTTP on loopback or a unix socket.
//!
//! The gate answers a scrape as it answers `status`. Whoever scrapes learns no source and no user:
//! labels are ports, reasons, hooks and interfaces, and each has a bound. docs/metrics.md lists every
//! name; they are stable.

mod families;
mod listener;
mod page;
mod scrape;
mod server;

pub(crate) use listener::Listener;
pub(crate) use server::serve;
