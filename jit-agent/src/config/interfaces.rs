//! The globs that choose the interfaces to gate.

use glob::Pattern;
use jit_proto::wrong::Wrongs;

use crate::config::raw::{Exclude, Reasoned};

/// The interfaces to gate: every name that matches `include` and not `exclude`.
#[derive(Clone, Debug)]
pub struct InterfaceFilter {
    include: Vec<Pattern>,
    exclude: Vec<Exclusion>,
}

/// Interfaces that are left out.
#[derive(Clone, Debug)]
struct Exclusion {
    pattern: Pattern,
    /// Why they need no gate; empty: nobody said.
    reason: String,
}

impl Default for InterfaceFilter {
    /// Every interface.
    fn default() -> Self {
        let all = Pattern::new("*").expect("a star is a glob");
        Self { include: vec![all], exclude: Vec::new() }
    }
}

impl InterfaceFilter {
    /// From the globs of `[gate] interfaces` (`None`: every interface) and `exclude`.
    /// Wrong are a text that is not a glob, an empty reason, and an empty `interfaces`.
    pub(super) fn new(
        interfaces: Option<Vec<String>>,
        exclude: Vec<Exclude>,
        wrongs: &mut Wrongs,
    ) -> Self {
        let include = match interfaces {
            Some(globs) => {
                if globs.is_empty() {
                    let what = "[gate] interfaces is empty: nothing would be gated; write [\"*\"] for \
                                all";
                    wrongs.add("gate.interfaces", what);
                }
                let globs = globs.iter().map(|glob| pattern("interfaces", glob));
                each("gate.interfaces", globs, wrongs)
            }
            None => Self::default().include,
        };
        let exclude = each("gate.exclude", exclude.into_iter().map(Exclusion::new), wrongs);
        Self { include, exclude }
    }

    /// Whether an interface of this name is gated.
    pub fn matches(&self, name: &str) -> bool {
        self.include.iter().any(|pattern| pattern.matches(name))
            && !self.exclude.iter().any(|exclusion| exclusion.pattern.matches(name))
    }

    /// Why an interface that is not gated needs no gate; empty: nobody said.
    pub fn reason(&self, name: &str) -> &str {
        let said = |exclusion: &&Exclusion| {
            exclusion.pattern.matches(name) && !exclusion.reason.is_empty()
        };
        self.exclude.iter().find(said).map_or("", |exclusion| &exclusion.reason)
    }

    /// The globs as people write them.
    pub fn text(&self) -> String {
        let list = |patterns: Vec<&str>| patterns.join(", ");
        let include = list(self.include.iter().map(Pattern::as_str).collect());
        let exclude = list(self.exclude.iter().map(|one| one.pattern.as_str()).collect());
        if exclude.is_empty() {
            format!("[{include}]")
        } else {
            format!("[{include}] without [{exclude}]")
        }
    }

    /// Whether every interface is gated, whatever its name.
    pub fn is_all(&self) -> bool {
        self.exclude.is_empty() && self.include.iter().any(|pattern| pattern.as_str() == "*")
    }

    /// Names in `interfaces` without a wildcard: these interfaces must exist.
    pub fn exact_names(&self) -> impl Iterator<Item = &str> {
        self.include
            .iter()
            .map(Pattern::as_str)
            .filter(|name| !name.contains(['*', '?', '[']) && self.matches(name))
    }
}

impl Exclusion {
    fn new(exclude: Exclude) -> Result<Self, String> {
        let (name, reason) = match exclude {
            Exclude::Name(name) => (name, String::new()),
            Exclude::Reasoned(Reasoned { name, reason }) if reason.trim().is_empty() => {
                return Err(format!(
                    "[gate] exclude: the reason for {name:?} is empty: write why it needs no gate"
                ));
            }
            Exclude::Reasoned(Reasoned { name, reason }) => (name, reason),
        };
        Ok(Self { pattern: pattern("exclude", &name)?, reason })
    }
}

fn each<T>(
    path: &str,
    read: impl Iterator<Item = Result<T, String>>,
    wrongs: &mut Wrongs,
) -> Vec<T> {
    let read = read.enumerate();
    read.filter_map(|(index, one)| wrongs.or(format!("{path}.{index}"), one.map(Some), None))
        .collect()
}

fn pattern(key: &str, glob: &str) -> Result<Pattern, String> {
    Pattern::new(glob).map_err(|error| format!("[gate] {key}: {glob:?}: {error}"))
}
