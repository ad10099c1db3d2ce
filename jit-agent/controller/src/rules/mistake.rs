//! A mistake in a text, and where it is.

use std::fmt;

use miette::Diagnostic;

/// A mistake in rules or cases.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl Mistake {
    /// A mistake at a byte of a text.
    pub(super) fn at(source: &str, offset: usize, text: impl Into<String>) -> Self {
        let (line, column) = place(source, offset);
        Self { line, column, text: text.into() }
    }

    /// What Cedar says of a text.
    pub(super) fn of_cedar(source: &str, diagnostic: &dyn Diagnostic, otherwise: usize) -> Self {
        let label = diagnostic.labels().and_then(|mut labels| labels.next());
        let offset = label.as_ref().map_or(otherwise, miette::LabeledSpan::offset);
        let mut text = diagnostic.to_string();
        // Cedar numbers the rules of a text; the place says which one it is.
        if let Some((_, rest)) =
            text.strip_prefix("for policy `policy").and_then(|rest| rest.split_once("`, "))
        {
            text = rest.to_owned();
        }
        if let Some(label) = label.as_ref().and_then(miette::LabeledSpan::label) {
            text = format!("{text}: {label}");
        }
        if let Some(help) = diagnostic.help() {
            text = format!("{text}; {help}");
        }
        Self::at(source, offset, text)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, text } = self;
        write!(f, "line {line}, column {column}: {text}")
    }
}

/// Line and column of a byte, both from 1. Behind the end: the end.
pub(super) fn place(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before.get(start..).unwrap_or("").chars().count() + 1)
}
