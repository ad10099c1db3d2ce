//! Every mistake in a configuration file, not only the first. Each is found by the checks that refuse
//! the file: the first mistake is mended in memory and the file is read again. So nothing is checked
//! twice in two ways. What is mended here is never used.

use std::ops::Range;

use jit_proto::wrong::Place;
use serde::{Deserialize as _, de::DeserializeOwned};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue, Error, ValueDeserializer},
};

use crate::config::{raw, spelling};

/// The most mistakes that are looked for in one file.
const MOST: usize = 64;
/// Mended values of keys that must be there. They only let the rest be read.
const MENDED: &[(&str, &str)] = &[
    ("ca", "\"x\""),
    ("certificate", "\"x\""),
    ("client_ca", "\"x\""),
    ("hubs", "[\"hub.example.org:443\"]"),
    ("key", "\"x\""),
    ("listen", "\"127.0.0.1:65432\""),
    ("may", "[]"),
    // So that no signer is missed.
    ("mode", "\"observe\""),
    ("name", "\"x\""),
    ("origins", "[\"https://x\"]"),
    ("owner", "\"x\""),
    ("protocol", "\"tcp\""),
    ("public_key", "\"x\""),
    ("reason", "\"x\""),
    ("rp_id", "\"x\""),
    ("signs", "[\"grant\", \"policy\"]"),
    ("source", "\"192.0.2.1\""),
    ("sources", "[\"192.0.2.1\"]"),
];

/// A mistake, where it is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where; `None`: it is about the file as a whole.
    pub place: Option<Place>,
    /// One sentence.
    pub text: String,
}

type Table<'i> = DeTable<'i>;
type Value<'i> = Spanned<DeValue<'i>>;

/// How a section is read: its name, whether it is a list of sections, and its reader.
type Section = (&'static str, bool, fn(Value<'_>) -> Result<(), Error>);

const SECTIONS: &[Section] = &[
    ("approver", true, reads::<raw::Approver>),
    ("audit", false, reads::<raw::Audit>),
    ("break_glass", false, reads::<raw::BreakGlass>),
    ("ceiling", false, reads::<raw::Ceiling>),
    ("control", false, reads::<raw::Control>),
    ("controller", true, reads::<raw::Controller>),
    ("freshness", false, reads::<raw::Freshness>),
    ("gate", false, reads::<raw::Gate>),
    ("host", false, reads::<raw::Host>),
    ("limits", false, reads::<raw::Limits>),
    ("metrics", false, reads::<raw::Metrics>),
    ("paths", false, reads::<raw::Paths>),
    ("port", true, reads::<jit_proto::port_section::TomlSection>),
    ("signer", true, reads::<raw::Signer>),
    ("uplink", false, reads::<raw::Uplink>),
];

/// Reads a whole file from its table.
pub(super) fn read(root: Table<'_>) -> Result<raw::Config, Error> {
    let root = Spanned::new(0..0, DeValue::Table(root));
    raw::Config::deserialize(ValueDeserializer::from(root))
}

fn reads<T: DeserializeOwned>(value: Value<'_>) -> Result<(), Error> {
    T::deserialize(ValueDeserializer::from(value)).map(drop)
}

impl Mistake {
    pub(super) fn at(text: &str, byte: usize, what: String) -> Self {
        Self { place: Some(Place::of_byte(text, byte)), text: what }
    }

    /// The mistake with its line.
    pub fn placed(&self) -> String {
        match self.place {
            None => self.text.clone(),
            Some(Place { line, .. }) => format!("line {line}: {}", self.text),
        }
    }
}

/// The mistakes that keep a text from being read, and the text as if they were mended. `None`: it is no
/// TOML. What was put in has an empty span.
pub(super) fn syntax(text: &str) -> (Vec<Mistake>, Option<Table<'_>>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let all = errors.iter().map(|error| {
            let at = error.span().map_or(0, |span| span.start);
            Mistake::at(text, at, error.message().replace('\n', "; "))
        });
        return (all.collect(), None);
    }
    let mut root = root.into_inner();
    let mut found = Found { text, mistakes: Vec::new() };
    found.names(&mut root);
    found.sections(&mut root);
    (found.mistakes, Some(root))
}

struct Found<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

impl Found<'_> {
    fn add(&mut self, at: usize, what: String) {
        self.mistakes.push(Mistake::at(self.text, at, what));
    }

    /// Sections that nobody knows, and the one that must be there.
    fn names(&mut self, root: &mut Table<'_>) {
        let names: Vec<_> = SECTIONS.iter().map(|(name, ..)| *name).collect();
        let is_known = |key: &str| names.contains(&key);
        let unknown = root.iter().filter(|(key, _)| !is_known(key.get_ref()));
        let unknown: Vec<_> = unknown
            .map(|(key, _)| (key.get_ref().clone().into_owned(), key.span().start))
            .collect();
        for (key, at) in unknown {
            let near = spelling::near(&key, &names);
            let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.add(at, format!("unknown field `{key}`{hint}"));
            let Some((name, value)) = root.remove_entry(key.as_str()) else { continue };
            if let Some(near) = near.filter(|near| !root.contains_key(*near)) {
                // It is read as what it was meant to be.
                root.insert(Spanned::new(name.span(), DeString::Borrowed(near)), value);
            }
        }
        if !root.contains_key("host") {
            self.add(0, "missing field `host`: the file needs [host] with id".into());
            if let Ok(value) = DeValue::parse("{ id = \"x\" }") {
                let value = Spanned::new(0..0, value.into_inner());
                root.insert(Spanned::new(0..0, DeString::Borrowed("host")), value);
            }
        }
    }

    fn sections(&mut self, root: &mut Table<'_>) {
        for (key, value) in root.iter_mut() {
            let Some((name, many, read)) = SECTIONS.iter().find(|(name, ..)| key.get_ref() == name)
            else {
                continue;
            };
            let (at, span) = (key.span().start, value.span());
            match (value.get_mut(), many) {
                (DeValue::Array(all), true) => {
                    for one in all.iter_mut() {
                        self.section(&format!("[[{name}]]"), one, *read);
                    }
                }
                (DeValue::Table(_), false) => self.section(&format!("[{name}]"), value, *read),
                (DeValue::Table(_), true) => {
                    self.add(at, format!("[{name}] is a list of sections; write [[{name}]]"));
                    self.section(&format!("[[{name}]]"), value, *read);
                    let only = Spanned::new(span, std::mem::replace(value.get_mut(), none()));
                    *value.get_mut() = DeValue::Array([only].into_iter().collect());
                }
                (_, many) => {
                    let (open, close) = if *many { ("[[", "]]") } else { ("[", "]") };
                    let what =
                        format!("`{name}` is no section of its kind; write {open}{name}{close}");
                    self.add(at, what);
                }
            }
        }
    }

    /// The mistakes of one section that keep it from being read.
    fn section(
        &mut self,
        name: &str,
        section: &mut Value<'_>,
        read: fn(Value<'_>) -> Result<(), Error>,
    ) {
        let start = section.span().start;
        for _ in 0..MOST {
            let Err(error) = read(section.clone()) else { return };
            let DeValue::Table(table) = section.get_mut() else {
                return self.add(start, format!("{name}: {}", error.message()));
            };
            let span = error.span().unwrap_or(start..start);
            if !self.mend(name, table, &error, &span, start) {
                return;
            }
        }
    }

    /// Reports a mistake and mends it. Returns whether the section is worth another look.
    fn mend(
        &mut self,
        name: &str,
        table: &mut Table<'_>,
        error: &Error,
        span: &Range<usize>,
        start: usize,
    ) -> bool {
        let message = error.message();
        let (missing, unknown) =
            (quoted(message, "missing field `"), quoted(message, "unknown field `"));
        // A table in the section, such as an exemption, is mended by itself.
        for (key, value) in table.iter_mut() {
            if let Some((inner, start)) = table_with(value, span)
                && (missing.is_some() || hit(inner, span, unknown).is_some())
            {
                let name = format!("{name} {}", key.get_ref());
                return self.mend(&name, inner, error, span, start);
            }
        }
        if let Some(missing) = missing {
            // A mended value has no place of its own; the missing key is reported at the section.
            self.add(start, format!("{name}: missing field `{missing}`"));
            return insert(table, missing);
        }
        let Some(key) = hit(table, span, unknown) else {
            self.add(span.start, format!("{name}: {message}"));
            return false;
        };
        let top = unknown.is_some_and(|unknown| *key == *unknown);
        let nothing = none();
        let value = table.get(key.as_str()).map_or(&nothing, Spanned::get_ref);
        let hint = spelling::hint(message, &key, value);
        let about = if top { name.to_owned() } else { format!("{name} {key}") };
        self.add(span.start, format!("{about}: {message}{hint}"));
        table.remove(key.as_str());
        if let Some(near) = unknown.filter(|_| top).and_then(|key| spelling::meant(message, key)) {
            // Its key is there under another name: it is not missing too.
            if !table.contains_key(near) {
                let _optional = insert(table, near);
            }
            return true;
        }
        let _optional = insert(table, &key);
        true
    }
}

/// The key that an error is about.
fn hit(table: &Table<'_>, span: &Range<usize>, unknown: Option<&str>) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let here = key.span() == *span || holds(&value.span(), span);
        let named = unknown.is_some_and(|unknown| key.get_ref() == unknown);
        (here || named).then(|| key.get_ref().clone().into_owned())
    })
}

/// The table that a value is, or has in its list, in which an error is; and its start.
fn table_with<'a, 'i>(
    value: &'a mut Value<'i>,
    span: &Range<usize>,
) -> Option<(&'a mut Table<'i>, usize)> {
    let at = value.span();
    if !holds(&at, span) {
        return None;
    }
    match value.get_mut() {
        DeValue::Table(table) => Some((table, at.start)),
        DeValue::Array(list) => {
            let one = list.iter_mut().find(|one| holds(&one.span(), span))?;
            let start = one.span().start;
            match one.get_mut() {
                DeValue::Table(table) => Some((table, start)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Stands for a value for a moment.
const fn none<'i>() -> DeValue<'i> {
    DeValue::Boolean(false)
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Puts a value for a key that must be there. Returns whether the key is one of these.
fn insert(table: &mut Table<'_>, key: &str) -> bool {
    let ids = [("id", "\"x\""), ("identity", "\"x\""), ("port", "65432")];
    let Some((key, text)) = MENDED.iter().chain(&ids).find(|(name, _)| *name == key) else {
        return false;
    };
    let Ok(value) = DeValue::parse(text) else { return false };
    let value = Spanned::new(0..0, value.into_inner());
    table.insert(Spanned::new(0..0, DeString::Borrowed(key)), value);
    true
}

/// What stands in backquotes after this beginning.
pub(super) fn quoted<'m>(message: &'m str, begin: &str) -> Option<&'m str> {
    message.strip_prefix(begin)?.split('`').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let (mut mistakes, _) = syntax(text);
        mistakes.sort();
        let line = |one: &Mistake| one.place.map_or(0, |place| place.line);
        mistakes.iter().map(|one| format!("{}: {}", line(one), one.text)).collect()
    }

    #[test]
    fn all_mistakes_are_found_with_their_lines_and_the_nearest_spelling() {
        let text = "[host]\nid = 7\nidd = \"x\"\n[gaet]\nmode = \"observe\"\n\
                    [[port]]\nport = 22\nprotocol = \"TCP\"\nsources = \"10.0.0.0/8\"\n\
                    [[port]]\nport = 23\nprotcol = \"tcp\"\nmode = \"observ\"\n";
        let found = of(text);
        let expected: &[(&str, &[&str])] = &[
            ("2:", &["[host] id", "expected a string"]),
            ("3:", &["unknown field `idd`", "did you mean `id`?"]),
            ("4:", &["unknown field `gaet`", "did you mean `gate`?"]),
            ("8:", &["[[port]] protocol", "`TCP`", "did you mean `tcp`?"]),
            ("9:", &["[[port]] sources", "write [\"10.0.0.0/8\"]"]),
            ("10:", &["[[port]]", "missing field `sources`"]),
            ("12:", &["unknown field `protcol`", "did you mean `protocol`?"]),
            ("13:", &["[[port]] mode", "did you mean `observe`?"]),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for ((place, words), one) in expected.iter().zip(&found) {
            assert!(one.starts_with(place), "{place}: {one}");
            assert!(words.iter().all(|word| one.contains(word)), "{words:?}: {one}");
        }
    }

    #[test]
    fn every_place_that_is_no_toml_is_found() {
        let found = of("[host]\nid = \"x\n[gate]\nmode = observe\n");
        assert!(found.len() >= 2, "{found:?}");
        assert!(found.iter().any(|one| one.starts_with("2:")), "{found:?}");
        assert!(found.iter().any(|one| one.starts_with("4:")), "{found:?}");
    }

    #[test]
    fn a_section_with_the_wrong_brackets_is_named_and_read_on() {
        let found = of("[host]\nid = \"x\"\n[port]\nport = 22\nprotocol = \"tcp\"\nsourcs = []\n");
        assert!(found.iter().any(|one| one.contains("write [[port]]")), "{found:?}");
        assert!(found.iter().any(|one| one.contains("did you mean `sources`?")), "{found:?}");
    }

    #[test]
    fn a_good_file_has_no_mistake() {
        assert_eq!(of("[host]\nid = \"x\"\n[gate]\nmode = \"observe\"\n"), [""; 0]);
    }
}
