//! Exit codes of `jit-agent` and `jitctl`: sysexits.h, and three of their own for `status`.

use std::process::ExitCode;

use jit_proto::v1;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; of `status`: enforcing.
    Success,
    /// Of `status`: in force, but something is missing.
    Degraded,
    /// Of `status`: nothing is in force.
    NotEnforcing,
    /// A command line that means nothing.
    Usage,
    /// No agent was reached, or the kernel does not do what is needed.
    Unavailable,
    /// Refused: by the agent, or for want of permission.
    Permission,
    /// A configuration, key, certificate or other file that is not what it should be.
    Configuration,
}

impl Exit {
    /// The number that a shell sees.
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

    /// Of `status`.
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
