//! Exit codes of `jit-agent` and `jitctl`: those of sysexits.h, 0, 1 and 2 for `status`, and 0 and 1
//! for `why` and `doctor`.

use std::process::ExitCode;

use jit_proto::v1;

/// How a command ends; [`Exit::code`] is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command did its work; for `status`: enforcing; for `why`: open.
    Success,
    /// For `status`: the gate is in force, but something is wrong. For `why`: closed. For `doctor`:
    /// there is something to do. For a revocation: it found nothing to end.
    Degraded,
    /// For `status`: the gate is not in force.
    NotEnforcing,
    /// The command line is wrong.
    Usage,
    /// No agent was reached, or the kernel lacks something that is needed.
    Unavailable,
    /// The agent refused, or a permission is missing.
    Permission,
    /// A configuration, key, certificate or other file is missing or wrong.
    Configuration,
}

impl Exit {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Degraded => 1,
            Self::NotEnforcing => 2,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Permission => 77,
            Self::Configuration => 78,
        }
    }

    /// The exit code of `status` for this answer; an unknown state counts as not enforcing.
    pub fn of_status(status: &v1::StatusResponse) -> Self {
        match status.state.as_str() {
            "enforcing" => Self::Success,
            "degraded" => Self::Degraded,
            _ => Self::NotEnforcing,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_enforcing_exits_with_success() {
        for (state, exit) in [
            ("enforcing", Exit::Success),
            ("degraded", Exit::Degraded),
            ("not_enforcing", Exit::NotEnforcing),
            ("a state of a later version", Exit::NotEnforcing),
        ] {
            let status = v1::StatusResponse { state: state.into(), ..Default::default() };
            assert_eq!(Exit::of_status(&status), exit, "{state}");
        }
    }
}
