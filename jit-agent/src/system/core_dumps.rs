//! No core dumps: private keys are in this process's memory. The unit says so too (`LimitCORE=`), but
//! it is not the only way to run the agent.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns them off for this process and what it starts. Other processes of the same user can then not
/// read its memory either: root owns its files in `/proc`.
///
/// # Errors
/// The kernel refuses it.
pub fn off() -> io::Result<()> {
    // A limit of 0 does not stop a program that takes the dump from a pipe (core(5)).
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}
