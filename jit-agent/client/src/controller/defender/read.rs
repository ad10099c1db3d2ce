//! From JSON with names in any case to values, each mistake with its place.

use serde_json::{Map, Value};

/// What is wrong with what was sent, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct Mistake {
    /// The field, from the top: `properties.virtualMachines[0].ports[1].number`.
    pub place: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct At<'v> {
    value: &'v Value,
    place: String,
}

impl<'v> At<'v> {
    /// The top.
    pub(super) const fn top(value: &'v Value) -> Self {
        Self { value, place: String::new() }
    }

    /// Where it stands.
    pub(super) fn place(&self) -> String {
        if self.place.is_empty() { "the body".to_owned() } else { self.place.clone() }
    }

    /// What is wrong here.
    pub(super) fn wrong(&self, why: impl Into<String>) -> Mistake {
        Mistake { place: self.place(), why: why.into() }
    }

    /// The fields.
    fn fields(&self) -> Result<&'v Map<String, Value>, Mistake> {
        self.value.as_object().ok_or_else(|| self.wrong("an object {...} belongs here"))
    }

    /// A field by its name in any case; `None`: it is missing or `null`.
    pub(super) fn field(&self, name: &str) -> Result<Option<Self>, Mistake> {
        let mut found = self.fields()?.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let Some((_, value)) = found.next() else { return Ok(None) };
        let place = match self.place.as_str() {
            "" => name.to_owned(),
            above => format!("{above}.{name}"),
        };
        let found_twice = found.next().is_some();
        let at = Self { value, place };
        match found_twice {
            true => Err(at.wrong("it stands there twice, in different cases")),
            false if value.is_null() => Ok(None),
            false => Ok(Some(at)),
        }
    }

    /// A field that must be there.
    pub(super) fn needed(&self, name: &str) -> Result<Self, Mistake> {
        let missing = || self.wrong(format!("the field {name} is missing"));
        self.field(name)?.ok_or_else(missing)
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Result<Vec<Self>, Mistake> {
        let list = self.value.as_array();
        let list = list.ok_or_else(|| self.wrong("a list [...] belongs here"))?;
        let item = |(number, value)| Self { value, place: format!("{}[{number}]", self.place) };
        Ok(list.iter().enumerate().map(item).collect())
    }

    /// The items of a list, or the one that stands in its place.
    pub(super) fn one_or_more(self) -> Result<Vec<Self>, Mistake> {
        if self.value.is_array() { self.items() } else { Ok(vec![self]) }
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// A text.
    pub(super) fn text(&self) -> Result<&'v str, Mistake> {
        self.value.as_str().ok_or_else(|| self.wrong("a text \"...\" belongs here"))
    }

    /// The text of a field; empty: it is missing.
    pub(super) fn text_of(&self, name: &str) -> Result<&'v str, Mistake> {
        self.field(name)?.map_or(Ok(""), |at| at.text())
    }

    /// A port's number, also as text.
    pub(super) fn port(&self) -> Result<u16, Mistake> {
        let number = match self.value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.and_then(|number| u16::try_from(number).ok());
        let is_port = |number: &u16| *number > 0;
        number.filter(is_port).ok_or_else(|| self.wrong("a port is a number from 1 to 65535"))
    }
}
