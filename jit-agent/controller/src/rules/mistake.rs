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
        if let Some(label) = label.as_ref().and_then(miette::LabeledSpan::label) {
            text = format!("{text}: {label}");
        }
        if let Some(help) = diagnostic.help() {
            text = format!("{text}; {help}");
        }
        Self::at(source, offset, without_number(&text))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, text } = self;
        write!(f, "line {line}, column {column}: {text}")
    }
}

/// Cedar numbers the rules of a text; the place says which one it is.
fn without_number(text: &str) -> String {
    let Some((before, rest)) = text.split_once("for policy `policy") else {
        return text.to_owned();
    };
    match rest.split_once("`, ") {
        Some((_, after)) => format!("{before}{after}"),
        None => text.to_owned(),
    }
}

/// Line and column of a byte, both from 1. Behind the end: the end.
pub(super) fn place(source: &str, offset: usize) -> (usize, usize) {
    let before = source.get(..offset).unwrap_or(source);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before.get(start..).unwrap_or("").chars().count() + 1)
}
