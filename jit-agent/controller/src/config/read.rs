//! The file as TOML, section by section. A mistake in one does not hide those in others: what cannot be
//! read is named, taken out, and the section is read again.

use std::ops::Range;

use jit_proto::wrong::Place;
use serde::de::DeserializeOwned;
use toml::{
    Spanned,
    de::{DeTable, DeValue, Error, ValueDeserializer},
};

use super::{Mistake, audit, database, syslog};
use crate::{api, bus, enrol::settings as enrolment, fleet, messages, people::oidc, signer};

/// The most mistakes that are looked for in one section.
const MOST: usize = 64;
const SECTIONS: [&str; 11] = [
    "agents",
    "api",
    "audit",
    "bus",
    "enrolment",
    "hub",
    "messages",
    "oidc",
    "signer",
    "store",
    "syslog",
];

/// The sections that could be read.
#[derive(Default)]
pub(super) struct Raw {
    pub(super) store: Option<database::Raw>,
    pub(super) api: Option<api::RawSettings>,
    pub(super) agents: Option<fleet::RawSettings>,
    pub(super) bus: Option<bus::RawSettings>,
    pub(super) hub: Option<fleet::RawHubSettings>,
    pub(super) signer: Option<signer::Settings>,
    pub(super) audit: Option<audit::Raw>,
    pub(super) syslog: Vec<syslog::Raw>,
    pub(super) messages: Option<messages::RawSettings>,
    pub(super) oidc: Option<oidc::RawSettings>,
    pub(super) enrolment: Option<enrolment::RawSettings>,
}

/// Reads a text, and names everything that keeps it from being read.
pub(super) fn sections(text: &str) -> (Raw, Vec<Mistake>) {
    let mut reader = Reader { text, mistakes: Vec::new() };
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        reader.add(at, error.message().replace('\n', "; "));
    }
    if !errors.is_empty() {
        return (Raw::default(), reader.mistakes);
    }
    let mut root = root.into_inner();
    reader.names(&mut root);
    let raw = Raw {
        store: reader.section(&mut root, "store", Some("")),
        api: reader.section(&mut root, "api", Some("")),
        agents: reader.section(&mut root, "agents", None),
        bus: reader.optional(&mut root, "bus"),
        hub: reader.optional(&mut root, "hub"),
        signer: reader.section(&mut root, "signer", None),
        audit: reader.section(&mut root, "audit", None),
        syslog: reader.list(&mut root, "syslog"),
        messages: reader.section(&mut root, "messages", Some("")),
        oidc: reader.optional(&mut root, "oidc"),
        enrolment: reader.section(&mut root, "enrolment", Some("")),
    };
    (raw, reader.mistakes)
}

/// The sections of a hub's file.
#[derive(Default)]
pub(super) struct RawHub {
    pub(super) bus: Option<bus::RawSettings>,
    pub(super) hub: Option<fleet::RawHubSettings>,
}

/// Reads a text as that of a hub without a database: it has `[bus]` and `[hub]`, and signs nothing.
/// `None`: it is another one.
pub(super) fn hub(text: &str) -> Option<(RawHub, Vec<Mistake>)> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut root = root.into_inner();
    let is_hub = ["bus", "hub"].iter().all(|name| root.contains_key(*name));
    if !errors.is_empty() || !is_hub || root.contains_key("signer") {
        return None;
    }
    let mut reader = Reader { text, mistakes: Vec::new() };
    let raw =
        RawHub { bus: reader.optional(&mut root, "bus"), hub: reader.optional(&mut root, "hub") };
    for (name, _) in &root {
        let why = format!(
            "[{}] does not belong here: with [bus] and [hub], and without [signer], this is the file \
             of a hub, which has neither a database nor a key",
            name.get_ref()
        );
        reader.add(name.span().start, why);
    }
    Some((raw, reader.mistakes))
}

struct Reader<'t> {
    text: &'t str,
    mistakes: Vec<Mistake>,
}

type Value<'i> = Spanned<DeValue<'i>>;

impl Reader<'_> {
    fn add(&mut self, at: usize, text: String) {
        self.mistakes.push(Mistake { place: Some(Place::of_byte(self.text, at)), text });
    }

    /// Names that no section has.
    fn names(&mut self, root: &mut DeTable<'_>) {
        let unknown = root.iter().filter(|(key, _)| !SECTIONS.contains(&&**key.get_ref()));
        let unknown: Vec<_> =
            unknown.map(|(key, _)| (key.get_ref().to_string(), key.span().start)).collect();
        for (key, at) in unknown {
            let near = near(&key, &SECTIONS);
            let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.add(at, format!("unknown section `{key}`{hint}"));
            if let Some((name, value)) = root.remove_entry(key.as_str())
                && let Some(near) = near.filter(|near| !root.contains_key(*near))
            {
                // It is read as what it was meant to be, so that it is not missed too.
                root.insert(Spanned::new(name.span(), near.into()), value);
            }
        }
    }

    /// Reads a section. `without`: the text that stands for one that is not there; `None`: it must be.
    fn section<T: DeserializeOwned>(
        &mut self,
        root: &mut DeTable<'_>,
        name: &str,
        without: Option<&str>,
    ) -> Option<T> {
        match (root.remove(name), without) {
            (Some(value), _) => self.value(&format!("[{name}]"), value),
            (None, Some(text)) => toml::from_str(text).ok(),
            (None, None) => {
                self.mistakes.push(Mistake {
                    place: None,
                    text: format!(
                        "the section [{name}] is missing; `jit-controller init` writes it"
                    ),
                });
                None
            }
        }
    }

    /// Reads a section that need not be there.
    fn optional<T: DeserializeOwned>(&mut self, root: &mut DeTable<'_>, name: &str) -> Option<T> {
        let value = root.remove(name)?;
        self.value(&format!("[{name}]"), value)
    }

    fn list<T: DeserializeOwned>(&mut self, root: &mut DeTable<'_>, name: &str) -> Vec<T> {
        let Some(value) = root.remove(name) else { return Vec::new() };
        let at = value.span().start;
        match value.into_inner() {
            DeValue::Array(list) => {
                let label = format!("[[{name}]]");
                list.into_iter().filter_map(|one| self.value(&label, one)).collect()
            }
            _ => {
                self.add(at, format!("[{name}] is a list: write [[{name}]]"));
                Vec::new()
            }
        }
    }

    /// Reads a value. One with mistakes is never returned: they are named.
    fn value<T: DeserializeOwned>(&mut self, name: &str, mut value: Value<'_>) -> Option<T> {
        let mut taken: Vec<String> = Vec::new();
        for _ in 0..MOST {
            let error = match T::deserialize(ValueDeserializer::from(value.clone())) {
                Ok(read) if taken.is_empty() => return Some(read),
                Ok(_) => return None,
                Err(error) => error,
            };
            let span = error.span().unwrap_or_else(|| value.span());
            let missing = quoted(error.message(), "missing field `");
            let unknown = quoted(error.message(), "unknown field `");
            let key = take(&mut value, &span, unknown).filter(|_| missing.is_none());
            // A value that was taken out because it was wrong is not missing.
            if !missing.is_some_and(|field| taken.iter().any(|key| key == field)) {
                let of = match &key {
                    Some(key) if unknown.is_none() => format!("{name} {key}:"),
                    _ => name.to_owned(),
                };
                self.add(span.start, format!("{of} {}", sentence(&error)));
            }
            let key = key?;
            // A misspelled key may be one that is missing now.
            taken.extend(meant(error.message(), &key).map(str::to_owned));
            taken.push(key);
        }
        None
    }
}

/// The sentence of an error, with the spelling that was most likely meant.
fn sentence(error: &Error) -> String {
    let message = error.message().replace('\n', "; ");
    let typed = message.split('`').nth(1).unwrap_or_default();
    match meant(&message, typed) {
        Some(word) if message.starts_with("unknown ") => {
            format!("{message}; did you mean `{word}`?")
        }
        _ => message,
    }
}

/// Takes the key out that an error is about, wherever it is in the value. Returns its name.
fn take(value: &mut Value<'_>, span: &Range<usize>, unknown: Option<&str>) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => {
            for (_, below) in table.iter_mut() {
                let inside = holds(&below.span(), span) && below.span() != *span;
                if inside && let Some(key) = take(below, span, unknown) {
                    return Some(key);
                }
            }
            let hit = table.iter().find_map(|(key, below)| {
                let here = key.span() == *span || holds(&below.span(), span);
                let named = unknown.is_some_and(|name| key.get_ref() == name);
                (here || named).then(|| key.get_ref().to_string())
            })?;
            table.remove(hit.as_str());
            Some(hit)
        }
        DeValue::Array(list) => {
            let one = list.iter_mut().find(|one| holds(&one.span(), span))?;
            if one.span() == *span { None } else { take(one, span, unknown) }
        }
        _ => None,
    }
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// What stands in backquotes after this beginning.
fn quoted<'m>(message: &'m str, begin: &str) -> Option<&'m str> {
    message.strip_prefix(begin)?.split('`').next()
}

/// The word of those that an error lists ("expected one of `a`, `b`").
fn meant<'m>(message: &'m str, typed: &str) -> Option<&'m str> {
    let (_, listed) = message.split_once("expected ")?;
    let words: Vec<_> = listed.split('`').skip(1).step_by(2).collect();
    near(typed, &words)
}

/// The word that was most likely meant, if one is near.
fn near<'w>(typed: &str, words: &[&'w str]) -> Option<&'w str> {
    let typed = typed.to_lowercase();
    let distance = |word: &str| strsim::damerau_levenshtein(&typed, word);
    let nearest = words.iter().min_by_key(|word| distance(word))?;
    let most = 1 + typed.len() / 4;
    (distance(nearest) <= most && distance(nearest) < nearest.len()).then_some(*nearest)
}
