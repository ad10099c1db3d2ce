//! What `jit-agent enforce` makes of a configuration: every `mode` is "enforce".
//!
//! Only the values change. Comments, order and spaces of the file stay as they are.

use serde::Deserialize;
use toml::Spanned;

use jit_proto::PortSection;

use crate::{config::Config, rules::policy::Policy};

#[derive(Deserialize)]
struct Modes {
    #[serde(default)]
    gate: Section,
    #[serde(default)]
    port: Vec<Section>,
}

#[derive(Default, Deserialize)]
struct Section {
    mode: Option<Spanned<String>>,
}

/// The text of a configuration with every `mode` on "enforce". `None`: it is no configuration.
pub fn enforcing_text(text: &str) -> Option<String> {
    let Modes { gate, port } = toml::from_str(text).ok()?;
    let sections = std::iter::once(gate).chain(port);
    let mut modes: Vec<_> = sections.filter_map(|section| section.mode).collect();
    // From the last one on: those before it stay where they are.
    modes.sort_by_key(|mode| std::cmp::Reverse(mode.span().start));
    let mut text = text.to_owned();
    for mode in modes.iter().filter(|mode| mode.get_ref() != "enforce") {
        text.get(mode.span())?;
        text.replace_range(mode.span(), "\"enforce\"");
    }
    Some(text)
}

impl Config {
    /// Whether the gate or a port is in observe mode.
    pub fn observes(&self) -> bool {
        self.gate.observe || self.policy.sections().iter().any(|section| section.observe)
    }

    /// The same configuration with nothing in observe mode.
    #[must_use]
    pub fn enforcing(mut self) -> Self {
        self.gate.observe = false;
        let enforced = |section: &PortSection| PortSection { observe: false, ..section.clone() };
        let sections = self.policy.sections().iter().map(enforced).collect();
        // The same ports as before: no two sections name one.
        if let Ok(policy) = Policy::new(sections, self.policy.max_duration()) {
            self.policy = policy;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Loaded;

    const FILE: &str = "# Ours.\n[host]\nid = \"web-1\"\n[gate]\nmode   =  'observe' # for now\n\
                        interfaces = [\"*\"]\n\n[[port]] # mode = \"observe\"\nport = 22\n\
                        protocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\nmax_duration = \"1h\"\n\
                        mode = \"observe\"\n[[port]]\nport = 23\nprotocol = \"tcp\"\nmode = \"enforce\"\n\
                        sources = [\"192.0.2.0/24\"]\nmax_duration = \"1h\"\n[[signer]]\nid = \"a\"\n\
                        public_key = \"a.pem\"\n";

    fn config(text: &str) -> Config {
        Loaded::parse(text, Path::new("/nowhere/config.toml"), &[]).unwrap().config
    }

    #[test]
    fn only_the_modes_change_and_comments_and_spaces_stay() {
        let text = enforcing_text(FILE).unwrap();
        let expected = FILE
            .replace("'observe' # for", "\"enforce\" # for")
            .replace("\nmode = \"observe\"\n[[port]]", "\nmode = \"enforce\"\n[[port]]");
        assert_eq!(text, expected);
        assert!(text.contains("# mode = \"observe\""), "{text}");
        assert_eq!(enforcing_text(&text).unwrap(), text);
        assert_eq!(enforcing_text("[host"), None);
        assert_eq!(enforcing_text("[gate]\nmode = 7\n"), None);
    }

    #[test]
    fn the_configuration_is_that_of_the_text() {
        let (before, after) = (config(FILE), config(&enforcing_text(FILE).unwrap()));
        assert!(before.observes() && !after.observes());
        let enforcing = before.enforcing();
        assert!(!enforcing.observes());
        assert_eq!(enforcing.policy, after.policy);
        assert_eq!(enforcing.gate.observe, after.gate.observe);
    }
}
