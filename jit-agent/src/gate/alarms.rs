//! What is wrong and stays so for a while: logged once, shown by `status` until it is put right.

/// What is wrong with one thing, if anything is.
#[derive(Debug, Default)]
pub(super) struct Problem(Option<String>);

impl Problem {
    /// What is wrong now. Logged, after `what`, unless it was wrong in the same way before.
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

/// What is wrong and no part's own.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    /// The database was lost.
    pub(super) damaged: Option<String>,
    /// The pins of the tables cannot be looked after.
    pub(super) pins: Problem,
    /// The pins of another version cannot be removed.
    pub(super) retired: Problem,
}
