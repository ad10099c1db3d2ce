//! Values of a TOML file that are wrong: each with its place, not only the first one.
//!
//! A check names a value by its path, `port.1.sources.0`: it has no need of the text. [`Places`]
//! finds the line.

use std::{fmt, str::FromStr};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A wrong value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Keys and indices from the root of the file, with dots. A value that is not there has the place
    /// of its section.
    pub path: String,
    /// One sentence, with the key.
    pub text: String,
}

/// Collects wrong values, so that the check can go on after one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wrongs(Vec<Wrong>);

impl Wrongs {
    /// Adds one.
    pub fn add(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.push(Wrong { path: path.into(), text: text.into() });
    }

    /// Adds those of a part of the file.
    pub fn add_below(&mut self, path: &str, part: Self) {
        for Wrong { path: below, text } in part.0 {
            self.add(if below.is_empty() { path.to_owned() } else { join(path, &below) }, text);
        }
    }

    /// What was read. If that is an error, it is added, and the check goes on with `instead`, which is
    /// never used for anything else.
    pub fn or<T>(&mut self, path: impl Into<String>, read: Result<T, String>, instead: T) -> T {
        read.unwrap_or_else(|text| {
            self.add(path, text);
            instead
        })
    }

    /// The values of a list that are right; the others are added. `at` begins a sentence with the section.
    pub fn each<T: FromStr<Err: fmt::Display>>(
        &mut self,
        key: &str,
        texts: &[String],
        at: impl Fn(String) -> String,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text.parse() {
                Ok(value) => values.push(value),
                Err(error) => self.add(format!("{key}.{index}"), at(format!("{key}: {error}"))),
            }
        }
        values
    }

    /// The value, if nothing is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub fn end<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Wrongs {
    type Item = Wrong;
    type IntoIter = std::vec::IntoIter<Wrong>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The path of a value below another one.
pub fn join(path: &str, below: &str) -> String {
    format!("{path}.{below}")
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

impl Place {
    /// The place of a byte.
    pub fn of_byte(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: 1 + before.matches('\n').count(), column: 1 + line.chars().count() }
    }
}

/// The places of the values in a file.
#[derive(Debug)]
pub struct Places<'t> {
    text: &'t str,
    root: DeTable<'t>,
}

impl<'t> Places<'t> {
    /// Of a text. What is no TOML has no places.
    pub fn of(text: &'t str) -> Self {
        let root = DeTable::parse(text).map(Spanned::into_inner).unwrap_or_default();
        Self { text, root }
    }

    /// Of a text that was read to this table.
    pub const fn of_table(text: &'t str, root: DeTable<'t>) -> Self {
        Self { text, root }
    }

    /// The place of a value, or of the nearest section above that is there. `None`: the file does not
    /// have it; it was put into the table.
    pub fn at(&self, path: &str) -> Option<Place> {
        let mut steps = path.split('.');
        let Some(mut value) = steps.next().and_then(|key| self.root.get(key)) else {
            return Some(Place { line: 1, column: 1 });
        };
        for step in steps {
            let below = match value.get_ref() {
                DeValue::Table(table) => table.get(step),
                DeValue::Array(list) => step.parse().ok().and_then(|at: usize| list.get(at)),
                _ => None,
            };
            let Some(below) = below else { break };
            value = below;
        }
        let span = value.span();
        (!span.is_empty()).then(|| Place::of_byte(self.text, span.start))
    }

    /// The index in a list of sections of the one with this value.
    pub fn index_of(&self, list: &str, key: &str, wanted: &str) -> Option<usize> {
        let DeValue::Array(sections) = self.root.get(list)?.get_ref() else { return None };
        sections.iter().position(|section| {
            let value = section.get_ref().get(key);
            value.and_then(|value| value.get_ref().as_str()) == Some(wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# First.\n[gate]\nmode = \"observe\"\n[[port]]\nport = 22\n\
                        sources = [\n  \"10.0.0.0/8\",\n  \"ü\", \"x\",\n]\n[[port]]\nport = 23\n";

    #[test]
    fn a_value_has_its_line_and_column_and_a_missing_one_those_of_its_section() {
        let places = Places::of(TEXT);
        let at = |path: &str| places.at(path).map(|Place { line, column }| (line, column));
        for (path, place) in [
            ("gate.mode", (3, 8)),
            ("gate.hook", (2, 1)),
            ("port.0.port", (5, 8)),
            ("port.0.sources.1", (8, 3)),
            ("port.0.sources.2", (8, 8)),
            ("port.1.sources.0", (10, 1)),
            ("audit.keep", (1, 1)),
        ] {
            assert_eq!(at(path), Some(place), "{path}");
        }
        assert_eq!(Places::of("[gate").at("gate"), Some(Place { line: 1, column: 1 }));
    }

    #[test]
    fn a_section_is_found_by_its_id() {
        let text = "[[signer]]\nid = \"a\"\n[[signer]]\nid = \"b\"\n";
        let places = Places::of(text);
        assert_eq!(places.index_of("signer", "id", "b"), Some(1));
        assert_eq!(places.index_of("signer", "id", "c"), None);
        assert_eq!(places.index_of("host", "id", "b"), None);
    }

    #[test]
    fn what_is_wrong_is_collected_and_the_check_goes_on() {
        let mut part = Wrongs::default();
        assert_eq!(part.or("port", Err("zero".into()), 7), 7);
        assert_eq!(part.or("port", Ok(5), 7), 5);
        let mut all = Wrongs::default();
        all.add_below("port.3", part);
        let Err(wrongs) = all.end(()) else { panic!("nothing is wrong") };
        let wrong = Wrong { path: "port.3.port".into(), text: "zero".into() };
        assert_eq!(wrongs.into_iter().collect::<Vec<_>>(), [wrong]);
    }
}
