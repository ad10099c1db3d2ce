//! The failure of a command: a message for a person, and an exit code. Warnings.

use std::{fmt, io::Write as _};

use jit_client::{CallError, exit::Exit, text::printable};
use jit_proto::printable::clean_lines;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What was tried, on what, why it failed, what to do next; empty when nobody can read it.
    message: String,
}

impl Failure {
    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// The agent could not be reached or did not answer.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unavailable, message: message.into() }
    }

    /// A file is missing, unreadable or wrong.
    pub(crate) fn files(message: impl Into<String>) -> Self {
        Self { exit: Exit::Configuration, message: message.into() }
    }

    /// An agent, the controller or a person refused.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { exit: Exit::Permission, message: message.into() }
    }

    /// The reader of standard output closed it: the command ends, without an error.
    pub(crate) const fn output_closed() -> Self {
        Self { exit: Exit::Success, message: String::new() }
    }

    /// Prints the message to standard error. A refusal has no prefix, for scripts.
    pub(crate) fn report(&self) {
        if self.message.is_empty() {
            return;
        }
        match self.exit {
            Exit::Permission => complain(&self.message),
            _ => complain(&format!("jitctl: {}", self.message)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Files(message) => Self::files(message),
            CallError::Refused { word, detail } => Self {
                exit: Exit::Permission,
                message: format!("refused: {}: {}", printable(&word), printable(&detail)),
            },
            CallError::Unavailable(message) => Self::unavailable(message),
        }
    }
}

/// Prints a sentence to standard error. If nobody can read it, there is nowhere to say so.
fn complain(sentence: &str) {
    let _gone = writeln!(std::io::stderr(), "{}", clean_lines(sentence));
}

/// Prints something worth knowing to standard error, where standard output is for something else.
pub(crate) fn note(text: &str) {
    let text = text.trim_end();
    if !text.is_empty() {
        complain(text);
    }
}

/// Prints a warning to standard error.
pub(crate) fn warn(warning: &str) {
    complain(&format!("jitctl: warning: {warning}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_carries_the_word_and_the_detail() {
        let failure = Failure::from(CallError::refused("wrong_host", "for db-1, this is web-1"));
        assert_eq!(failure.exit, Exit::Permission);
        assert_eq!(failure.to_string(), "refused: wrong_host: for db-1, this is web-1");
    }
}
