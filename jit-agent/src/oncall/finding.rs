//! What `doctor` and `check` say of one condition.

use serde::Serialize;

/// What of a configuration's file a finding is about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum At {
    /// Nothing of it.
    #[default]
    Nowhere,
    /// A value, by its path (`jit_proto::wrong`).
    Value(String),
    /// A key of the signer or approver with this id.
    Signer(String, &'static str),
}

/// How good what was seen is. The order is from good to bad.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It could not be seen, most often because only root may look.
    Unseen,
    /// The gate can be in force, and something gets around it, or ends soon, or is slower.
    Warning,
    /// The agent cannot start or does not answer, nothing new opens, or a protected port is open.
    Failure,
}

/// One condition, with what was seen.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// The condition's name, as in the runbook's headings: "bpffs".
    pub(crate) check: &'static str,
    /// How good it is.
    pub(crate) level: Level,
    /// What it is about, where there are several of it: "eth0", "22/tcp". Otherwise empty.
    pub(crate) about: String,
    /// What was seen, in one sentence.
    pub(crate) seen: String,
    /// What to do, one command or sentence each. Empty where all is well.
    pub(crate) fix: Vec<String>,
    /// Where the configuration says so: `check` names the line.
    #[serde(skip)]
    pub(crate) at: At,
}

impl Finding {
    /// A condition that is as it should be.
    pub(crate) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, seen)
    }

    /// A condition that could not be seen.
    pub(crate) fn unseen(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Level::Unseen, why)
    }

    /// A condition that is doubtful. What to do: [`Self::fix`].
    pub(crate) fn warning(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, seen)
    }

    /// A condition that is wrong. What to do: [`Self::fix`].
    pub(crate) fn failure(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Level::Failure, seen)
    }

    /// The same, about one of several things.
    pub(crate) fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// The same, with one more thing to do.
    pub(crate) fn fix(mut self, command: impl Into<String>) -> Self {
        self.fix.push(command.into());
        self
    }

    /// The same, with the value of the configuration that it is about.
    pub(crate) fn at(mut self, path: impl Into<String>) -> Self {
        self.at = At::Value(path.into());
        self
    }

    /// The same, with the signer's key of the configuration that it is about.
    pub(crate) fn at_signer(mut self, id: &str, key: &'static str) -> Self {
        self.at = At::Signer(id.to_owned(), key);
        self
    }

    /// A condition of this level.
    pub(crate) fn new(check: &'static str, level: Level, seen: impl Into<String>) -> Self {
        Self {
            check,
            level,
            about: String::new(),
            seen: seen.into(),
            fix: Vec::new(),
            at: At::Nowhere,
        }
    }
}
