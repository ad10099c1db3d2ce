//! How a command ends: exit codes, and failures as a person reads them.

use std::{fmt, process::ExitCode};

use jit_agent::printable::clean_lines;

/// Exit codes, after sysexits.h; stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0.
    Success,
    /// 1, by `status` only: the agent is degraded.
    Degraded,
    /// 2, by `status` only: the agent does not enforce.
    NotEnforcing,
    /// 64: the command line is wrong.
    Usage,
    /// 69: no agent could be reached, or the connection broke.
    Unavailable,
    /// 77: the agent refused, or the caller may not do this.
    Refused,
    /// 78: a file is missing, unreadable, in the way, or not what it should be.
    Files,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0_u8,
            Exit::Degraded => 1,
            Exit::NotEnforcing => 2,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Refused => 77,
            Exit::Files => 78,
        })
    }
}

/// Why a command did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What was tried, on what, why it failed, what to do next; empty when nobody is listening.
    message: String,
}

impl Failure {
    /// The command line asks for something that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// The agent could not be reached or did not answer.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unavailable, message: message.into() }
    }

    /// The agent said no.
    pub(crate) fn refused(word: &str, detail: &str) -> Self {
        // Some messages begin with the word, for clients that look at nothing else.
        let detail =
            detail.strip_prefix(word).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(detail);
        let detail = if detail.is_empty() { "the agent gives no detail" } else { detail };
        Self { exit: Exit::Refused, message: format!("refused: {word}: {detail}") }
    }

    /// A file is the trouble.
    pub(crate) fn files(message: impl Into<String>) -> Self {
        Self { exit: Exit::Files, message: message.into() }
    }

    /// Standard output was closed by its reader: the end, but no error.
    pub(crate) const fn output_closed() -> Self {
        Self { exit: Exit::Success, message: String::new() }
    }

    /// Tells it on standard error. A refusal stands alone on its line for scripts.
    pub(crate) fn report(&self) {
        if self.message.is_empty() {
            return;
        }
        match self.exit {
            Exit::Refused => eprintln!("{}", clean_lines(&self.message)),
            _ => eprintln!("jitctl: {}", clean_lines(&self.message)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_word_and_the_detail() {
        let failure = Failure::refused("wrong_host", "for db-1, this is web-1");
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(failure.to_string(), "refused: wrong_host: for db-1, this is web-1");
        assert_eq!(Failure::refused("wrong_host", "wrong_host: for db-1, this is web-1"), failure);
    }
}
