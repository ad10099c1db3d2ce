//! Whether the controller works: what it finds out about itself, as `check` prints it and the page
//! *Health* shows it. Nothing is changed.

mod database;
mod finding;
mod hub;
mod running;

pub(crate) use self::{
    database::look as database,
    finding::{Finding, Findings, Level},
    hub::look as hub,
    running::look as running,
};
