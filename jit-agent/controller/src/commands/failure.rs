//! Why a command failed: a sentence for a person, and an exit code.

use jit_client::exit::Exit;

use crate::{
    config::ConfigError,
    store::{StoreError, dump::DumpError},
};

/// What was tried, on what, why it failed, what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    message: String,
}

impl Failure {
    /// With this exit code.
    pub const fn new(exit: Exit, message: String) -> Self {
        Self { exit, message }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// A file, a key or the configuration is missing or wrong.
    pub fn files(message: impl Into<String>) -> Self {
        Self { exit: Exit::Configuration, message: message.into() }
    }

    /// Something does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unavailable, message: message.into() }
    }

    /// The reader of standard output closed it: the command ends, without an error.
    pub(super) const fn output_closed() -> Self {
        Self { exit: Exit::Success, message: String::new() }
    }

    /// Whether there is something to say.
    pub fn is_silent(&self) -> bool {
        self.message.is_empty()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::files(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable(_) | StoreError::Database(_) => {
                Self::unavailable(error.to_string())
            }
            StoreError::Conflict(_)
            | StoreError::Corrupt { .. }
            | StoreError::Migration(_)
            | StoreError::Newer(_) => Self::files(error.to_string()),
        }
    }
}

impl From<DumpError> for Failure {
    fn from(error: DumpError) -> Self {
        match error {
            DumpError::Store(error) => error.into(),
            DumpError::Io(_) | DumpError::Line { .. } | DumpError::NotEmpty(_) => {
                Self::files(error.to_string())
            }
        }
    }
}
