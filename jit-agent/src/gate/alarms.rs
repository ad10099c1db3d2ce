//! Problems that last for a while. Each is logged once, and `status` shows it until it is solved.

/// The problem with one thing, if there is one.
#[derive(Debug, Default)]
pub(super) struct Problem(Option<String>);

impl Problem {
    /// Sets the present problem. Logs it, after `what`, unless it was the same before.
    pub(super) fn set(&mut self, what: &str, text: Option<String>) {
        if let Some(text) = &text
            && self.0.as_ref() != Some(text)
        {
            tracing::error!("{what}: {text}");
        }
        self.0 = text;
    }

    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// Problems that belong to no part of the gate.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// The database was lost.
    pub(super) damaged: Option<String>,
    /// The pins of the tables cannot be checked or restored.
    pub(super) pins: Problem,
    /// The pins of another version cannot be removed.
    pub(super) retired: Problem,
}
