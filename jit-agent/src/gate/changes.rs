//! The difference between two configurations, by value: for the log and the audit. Pure.

use std::time::Duration;

use jit_proto::{Exemption, PortRange, WallTime};

use crate::{
    config::{Config, Controller},
    rules::{
        impact::{self, Impact},
        keyring::Keyring,
    },
};

/// What another configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Every change.
    pub(super) all: Vec<String>,
    /// Those that let in what was kept out before.
    pub(super) opened: Vec<String>,
}

impl Changes {
    /// From `old` to `new`, each with the policy that is in force under it. `gated`: the interfaces
    /// that are gated under the old one.
    pub(super) fn between(old: &Config, new: &Config, gated: &[String], now: WallTime) -> Self {
        let mut changes = Self::default();
        changes.policy(old, new, now);
        changes.gate(old, new, gated);
        changes.authority(old, new);
        changes
    }

    fn changed(&mut self, text: String) {
        self.all.push(text);
    }

    fn opens(&mut self, text: String) {
        self.all.push(text.clone());
        self.opened.push(text);
    }

    fn policy(&mut self, old: &Config, new: &Config, now: WallTime) {
        let impact = Impact::between(&old.policy, &new.policy, now);
        let Impact { closed, opened, changed, lost, added } = impact;
        for range in closed {
            self.changed(format!("{range} is closed without a grant"));
        }
        for range in opened {
            self.opens(format!("{range} is open to everybody"));
        }
        for (range, what) in &changed {
            for what in what {
                self.changed(format!("{range}: {what}"));
            }
        }
        for (range, what) in impact::laxer(&old.policy, &new.policy) {
            self.opened.extend(what.into_iter().map(|what| format!("{range}: {what}")));
        }
        for (range, exemption) in &lost {
            self.changed(format!("{range}: no exemption for {} any more", exemption.source));
        }
        for (range, exemption) in &added {
            self.opens(exempted(*range, exemption));
        }
    }

    fn gate(&mut self, old: &Config, new: &Config, gated: &[String]) {
        let (before, after) = (&old.gate, &new.gate);
        match (before.observe, after.observe) {
            (false, true) => {
                self.opens("[gate] mode enforce -> observe: nothing is dropped".into())
            }
            (true, false) => self.changed("[gate] mode observe -> enforce".into()),
            _ => {}
        }
        match (before.socket_guard, after.socket_guard) {
            (true, false) => self.opens("[gate] socket_guard is off".into()),
            (false, true) => self.changed("[gate] socket_guard is on".into()),
            _ => {}
        }
        let (from, to) = (before.interfaces.text(), after.interfaces.text());
        if from != to {
            self.changed(format!("[gate] interfaces {from} -> {to}"));
        }
        for name in gated.iter().filter(|name| !after.interfaces.matches(name)) {
            self.opens(format!("interface {name} has no packet gate any more"));
        }
        if before.hook != after.hook {
            self.changed(format!("[gate] hook {:?} -> {:?}", before.hook, after.hook));
        }
    }

    fn authority(&mut self, old: &Config, new: &Config) {
        signers(&old.keyring, &new.keyring).into_iter().for_each(|text| self.changed(text));
        controllers(&old.controllers, &new.controllers)
            .into_iter()
            .for_each(|text| self.changed(text));
        if old.ceiling != new.ceiling {
            let words = match (&old.ceiling, &new.ceiling) {
                (None, Some(_)) => "is there: policies may be pushed",
                (Some(_), None) => "is gone: no policy may be pushed",
                _ => "allows other policies",
            };
            self.changed(format!("[ceiling] {words}"));
        }
        if old.break_glass != new.break_glass {
            let text = |longest: Option<Duration>| {
                longest.map_or_else(|| "off".to_owned(), |longest| format!("{longest:.0?}"))
            };
            let (from, to) = (text(old.break_glass), text(new.break_glass));
            self.changed(format!("[break_glass] max_duration {from} -> {to}"));
        }
        let listen = |config: &Config| match &config.control {
            Some(control) => control.listen.to_string(),
            None => "nothing".to_owned(),
        };
        if old.control != new.control {
            self.changed(format!("[control] {} -> {}", listen(old), listen(new)));
        }
        let served = |config: &Config| {
            config.metrics.as_ref().map_or_else(|| "nowhere".to_owned(), ToString::to_string)
        };
        if old.metrics != new.metrics {
            self.changed(format!("[metrics] listen {} -> {}", served(old), served(new)));
        }
        if old.audit != new.audit {
            self.changed(format!("[audit] {:?} -> {:?}", old.audit, new.audit));
        }
    }
}

fn exempted(range: PortRange, exemption: &Exemption) -> String {
    let Exemption { source, reason, owner, until } = exemption;
    let until = until.map_or_else(|| "for ever".into(), |until| format!("until {until}"));
    format!("{range}: {source} needs no grant, {until} ({reason}; owner {owner})")
}

fn signers(old: &Keyring, new: &Keyring) -> Vec<String> {
    let mut texts = Vec::new();
    for signer in new.signers() {
        let id = &signer.id;
        match old.signers().iter().find(|before| before.id == *id) {
            None => texts.push(format!("signer {id:?} is new")),
            Some(before) if before.key_id() != signer.key_id() => {
                texts.push(format!("signer {id:?} has another key"));
            }
            Some(before) if before.mandate != signer.mandate => {
                texts.push(format!("signer {id:?} has other limits"));
            }
            Some(_) => {}
        }
    }
    let gone = old
        .signers()
        .iter()
        .filter(|before| new.signers().iter().all(|signer| signer.id != before.id));
    texts.extend(gone.map(|before| format!("signer {:?} is gone", before.id)));
    texts
}

fn controllers(old: &[Controller], new: &[Controller]) -> Vec<String> {
    let mut texts = Vec::new();
    for Controller { identity, may } in new {
        match old.iter().find(|before| before.identity == *identity) {
            None => texts.push(format!("controller {identity:?} may {may}")),
            Some(before) if before.may != *may => {
                texts.push(format!("controller {identity:?} may {} -> {may}", before.may));
            }
            Some(_) => {}
        }
    }
    let gone = old.iter().filter(|before| new.iter().all(|one| one.identity != before.identity));
    texts.extend(gone.map(|before| format!("controller {:?} may nothing", before.identity)));
    texts
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Loaded;

    const NOW: WallTime = WallTime(0);
    const PORT: &str = "[[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n\
                        max_duration = \"1h\"\nsessions = \"cut\"\napprovals = 2\n";

    /// Two signers, whose keys do not matter here.
    fn config(gate: &str, rest: &str) -> Config {
        let text = format!(
            "[host]\nid = \"web-1\"\n[gate]\n{gate}\n{rest}\n[[signer]]\nid = \"a\"\n\
             public_key = \"a.pem\"\n[[signer]]\nid = \"b\"\npublic_key = \"b.pem\"\n"
        );
        Loaded::parse(&text, Path::new("/nowhere/config.toml"), &[]).unwrap().config
    }

    fn between(old: &Config, new: &Config) -> Changes {
        Changes::between(old, new, &["eth0".into(), "eth1".into()], NOW)
    }

    #[test]
    fn what_opens_is_named_by_value_and_what_closes_is_not_among_it() {
        let exempt =
            "exempt = [{ source = \"192.0.2.7\", reason = \"probe\", owner = \"netops\" }]\n";
        for (gate, port, says) in [
            ("", String::new(), "22/tcp is open to everybody"),
            ("", format!("{PORT}mode = \"observe\""), "22/tcp is open to everybody"),
            (
                "",
                format!("{PORT}{exempt}"),
                "22/tcp: 192.0.2.7 needs no grant, for ever (probe; owner netops)",
            ),
            ("", PORT.replace("1h", "2h"), "22/tcp: max_duration 1h -> 2h"),
            ("", PORT.replace("approvals = 2", ""), "22/tcp: approvals 2 -> 1"),
            ("", PORT.replace("cut", "drain"), "22/tcp: sessions cut -> drain"),
            (
                "",
                PORT.replace("192.0.2.0", "198.51.100.0"),
                "22/tcp: grants may also name 198.51.100.0/24",
            ),
            ("", format!("{PORT}widest_v4 = 8"), "22/tcp: widest_v4 /24 -> /8"),
            ("interfaces = [\"eth0\"]", PORT.into(), "interface eth1 has no packet gate any more"),
            (
                "mode = \"observe\"",
                PORT.into(),
                "[gate] mode enforce -> observe: nothing is dropped",
            ),
            ("socket_guard = false", PORT.into(), "[gate] socket_guard is off"),
        ] {
            let (closed, open) = (config("", PORT), config(gate, &port));
            let Changes { all, opened } = between(&closed, &open);
            assert_eq!(opened, [says]);
            assert!(!all.is_empty(), "{says}");
            // Back again, something changed and nothing opened. (Other sources open both ways.)
            let back = between(&open, &closed);
            assert!(!back.all.is_empty(), "{says}");
            assert!(back.opened.is_empty() || port.contains("198.51.100.0"), "{back:?}");
        }
        assert_eq!(between(&config("", PORT), &config("", PORT)), Changes::default());
    }
}
