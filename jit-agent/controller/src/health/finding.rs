//! What was found, and how bad it is.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// It does not work.
    Error,
    /// It will not work soon, or is not as safe as it should be.
    Warning,
    /// As it should be.
    Good,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What was looked at: `database`, `signer.key`.
    pub(crate) about: String,
    /// One sentence, with what to do.
    pub(crate) text: String,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// All of them, in the order in which they were found.
    pub(crate) fn all(&self) -> &[Finding] {
        &self.0
    }

    /// How bad the worst is.
    pub(crate) fn worst(&self) -> Level {
        self.0.iter().map(|one| one.level).min().unwrap_or(Level::Good)
    }

    pub(crate) fn add(&mut self, level: Level, about: impl Into<String>, text: impl Into<String>) {
        self.0.push(Finding { level, about: about.into(), text: text.into() });
    }

    pub(crate) fn error(&mut self, about: impl Into<String>, text: impl Into<String>) {
        self.add(Level::Error, about, text);
    }

    pub(crate) fn warn(&mut self, about: impl Into<String>, text: impl Into<String>) {
        self.add(Level::Warning, about, text);
    }

    pub(crate) fn good(&mut self, about: impl Into<String>, text: impl Into<String>) {
        self.add(Level::Good, about, text);
    }
}
