//! The globs that choose the interfaces to gate.

use glob::Pattern;

/// The interfaces to gate: every name that matches `include` and not `exclude`.
#[derive(Clone, Debug)]
pub struct InterfaceFilter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
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
    ///
    /// # Errors
    /// A text is not a glob, or `interfaces` is empty.
    pub fn new(interfaces: Option<Vec<String>>, exclude: &[String]) -> Result<Self, String> {
        let patterns = |key: &str, globs: &[String]| {
            let pattern = |glob: &String| {
                Pattern::new(glob).map_err(|error| format!("[gate] {key}: {glob:?}: {error}"))
            };
            globs.iter().map(pattern).collect::<Result<Vec<_>, _>>()
        };
        let include = match interfaces {
            Some(globs) => patterns("interfaces", &globs)?,
            None => Self::default().include,
        };
        if include.is_empty() {
            return Err(
                "[gate] interfaces is empty: nothing would be gated; write [\"*\"] for all".into(),
            );
        }
        Ok(Self { include, exclude: patterns("exclude", exclude)? })
    }

    /// Whether an interface of this name is gated.
    pub fn matches(&self, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        any(&self.include) && !any(&self.exclude)
    }

    /// The globs as people write them.
    pub fn text(&self) -> String {
        let list = |patterns: &[Pattern]| {
            patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join(", ")
        };
        match self.exclude.as_slice() {
            [] => format!("[{}]", list(&self.include)),
            exclude => format!("[{}] without [{}]", list(&self.include), list(exclude)),
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
