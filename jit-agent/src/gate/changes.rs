//! The difference between two configurations, by value: for the log and the audit. Pure.

use std::{cmp::Ordering, time::Duration};

use jit_proto::{Exemption, PortRange, WallTime};

use crate::{
    config::{AuditConfig, Config, Control, Controller, Uplink},
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
    /// Those that may shut somebody out, or end sessions, who gets in now.
    pub(super) closed: Vec<String>,
}

impl Changes {
    /// From `old` to `new`, each with the policy that is in force under it. `gated`: the interfaces
    /// that are gated under the old one.
    pub(super) fn between(old: &Config, new: &Config, gated: &[String], now: WallTime) -> Self {
        let mut changes = Self::default();
        changes.policy(old, new, now);
        changes.limits(old, new);
        changes.gate(old, new, gated);
        changes.authority(old, new);
        if new.gate.observe {
            // Nothing is dropped, and no session ends.
            changes.closed.clear();
        }
        changes
    }

    fn changed(&mut self, text: String) {
        self.all.push(text);
    }

    fn opens(&mut self, text: String) {
        self.all.push(text.clone());
        self.opened.push(text);
    }

    fn closes(&mut self, text: String) {
        self.all.push(text.clone());
        self.closed.push(text);
    }

    fn policy(&mut self, old: &Config, new: &Config, now: WallTime) {
        let impact = Impact::between(&old.policy, &new.policy, now);
        let Impact { closed, opened, changed, lost, added } = impact;
        for range in closed {
            self.closes(format!("{range} is closed without a grant"));
        }
        for range in opened {
            self.opens(format!("{range} is open to everybody"));
        }
        for (range, what) in &changed {
            for what in what {
                self.changed(format!("{range}: {what}"));
            }
        }
        for (range, what) in impact::sterner(&old.policy, &new.policy) {
            self.closed.extend(what.into_iter().map(|what| format!("{range}: {what}")));
        }
        for (range, what) in impact::laxer(&old.policy, &new.policy) {
            self.opened.extend(what.into_iter().map(|what| format!("{range}: {what}")));
        }
        for (range, exemption) in &lost {
            self.closes(format!("{range}: no exemption for {} any more", exemption.source));
        }
        for (range, exemption) in &added {
            self.opens(exempted(*range, exemption));
        }
    }

    fn limits(&mut self, old: &Config, new: &Config) {
        let (from, to) = (old.policy.max_duration(), new.policy.max_duration());
        let text = format!("[limits] max_duration {from:.0?} -> {to:.0?}");
        match from.cmp(&to) {
            Ordering::Less => self.opens(text),
            Ordering::Equal => {}
            Ordering::Greater => self.changed(text),
        }
    }

    fn gate(&mut self, old: &Config, new: &Config, gated: &[String]) {
        let (before, after) = (&old.gate, &new.gate);
        match (before.observe, after.observe) {
            (false, true) => {
                self.opens("[gate] mode enforce -> observe: nothing is dropped".into())
            }
            (true, false) => self.closes("[gate] mode observe -> enforce".into()),
            _ => {}
        }
        match (before.socket_guard, after.socket_guard) {
            (true, false) => self.opens("[gate] socket_guard is off".into()),
            (false, true) => self.closes("[gate] socket_guard is on".into()),
            _ => {}
        }
        let (from, to) = (before.interfaces.text(), after.interfaces.text());
        if from != to {
            let text = format!("[gate] interfaces {from} -> {to}");
            // Where all are gated, no other interface is gated than before.
            if before.interfaces.is_all() { self.changed(text) } else { self.closes(text) }
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
        if old.freshness != new.freshness {
            let text = |config: &Config| {
                config.freshness.map_or_else(|| "off".to_owned(), |on_stale| on_stale.to_string())
            };
            self.changed(format!("[freshness] on_stale {} -> {}", text(old), text(new)));
        }
        if old.break_glass != new.break_glass {
            let text = |longest: Option<Duration>| {
                longest.map_or_else(|| "off".to_owned(), |longest| format!("{longest:.0?}"))
            };
            let (from, to) = (text(old.break_glass), text(new.break_glass));
            self.changed(format!("[break_glass] max_duration {from} -> {to}"));
        }
        for (key, (from, to)) in control(old.control.as_ref(), new.control.as_ref()) {
            self.changed(format!("[control] {key} {from} -> {to}"));
        }
        for (key, (from, to)) in uplink(old.uplink.as_ref(), new.uplink.as_ref()) {
            self.changed(format!("[uplink] {key} {from} -> {to}"));
        }
        let served = |config: &Config| {
            config.metrics.as_ref().map_or_else(|| "nowhere".to_owned(), ToString::to_string)
        };
        if old.metrics != new.metrics {
            self.changed(format!("[metrics] listen {} -> {}", served(old), served(new)));
        }
        if old.audit != new.audit {
            let text = |audit: AuditConfig| {
                let AuditConfig { max_size, keep } = audit;
                format!("{keep} files of {max_size} bytes")
            };
            self.changed(format!("[audit] {} -> {}", text(old.audit), text(new.audit)));
        }
    }
}

fn exempted(range: PortRange, exemption: &Exemption) -> String {
    let Exemption { source, reason, owner, until } = exemption;
    let until = until.map_or_else(|| "for ever".into(), |until| format!("until {until}"));
    format!("{range}: {source} needs no grant, {until} ({reason}; owner {owner})")
}

/// The keys of `[control]` that differ, with both values.
fn control(old: Option<&Control>, new: Option<&Control>) -> Vec<(&'static str, (String, String))> {
    let none = || ["nothing"; 4].map(str::to_owned);
    let values = |control: &Control| {
        let Control { listen, certificate, key, client_ca } = control;
        let paths = [certificate, key, client_ca].map(|path| path.display().to_string());
        let [certificate, key, client_ca] = paths;
        [listen.to_string(), certificate, key, client_ca]
    };
    let before = old.map_or_else(none, values);
    let after = new.map_or_else(none, values);
    let keys = ["listen", "certificate", "key", "client_ca"];
    let all = keys.into_iter().zip(before.into_iter().zip(after));
    all.filter(|(_, (before, after))| before != after).collect()
}

/// The keys of `[uplink]` that differ, with both values.
fn uplink(old: Option<&Uplink>, new: Option<&Uplink>) -> Vec<(&'static str, (String, String))> {
    let none = || ["nothing"; 6].map(str::to_owned);
    let values = |uplink: &Uplink| {
        let Uplink { hubs, certificate, key, ca, proxy, proxy_credentials } = uplink;
        let hubs: Vec<_> = hubs.iter().map(ToString::to_string).collect();
        let paths = [certificate, key, ca].map(|path| path.display().to_string());
        let [certificate, key, ca] = paths;
        let login = proxy_credentials.as_ref();
        let login = login.map_or_else(|| "nothing".to_owned(), |path| path.display().to_string());
        [hubs.join(", "), certificate, key, ca, proxy.to_string(), login]
    };
    let before = old.map_or_else(none, values);
    let after = new.map_or_else(none, values);
    let keys = ["hubs", "certificate", "key", "ca", "proxy", "proxy_credentials"];
    let all = keys.into_iter().zip(before.into_iter().zip(after));
    all.filter(|(_, (before, after))| before != after).collect()
}

fn signers(old: &Keyring, new: &Keyring) -> Vec<String> {
    let mut texts = Vec::new();
    for signer in new.signers() {
        let id = &signer.id;
        match old.signers().iter().find(|before| before.id == *id) {
            None => texts.push(format!("{} {id:?} is new", signer.section())),
            Some(before) if before.key_id() != signer.key_id() => {
                texts.push(format!("{} {id:?} has another key", signer.section()));
            }
            Some(before) if before.mandate != signer.mandate => {
                texts.push(format!("{} {id:?} has other limits", signer.section()));
            }
            Some(before) if before.approver() != signer.approver() => {
                texts.push(format!("{} {id:?} has other origins", signer.section()));
            }
            Some(_) => {}
        }
    }
    let gone = old
        .signers()
        .iter()
        .filter(|before| new.signers().iter().all(|signer| signer.id != before.id));
    texts.extend(gone.map(|before| format!("{} {:?} is gone", before.section(), before.id)));
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
            let Changes { all, opened, closed: _ } = between(&closed, &open);
            assert_eq!(opened, [says]);
            assert!(!all.is_empty(), "{says}");
            // Back again, something changed and nothing opened. (Other sources open both ways.)
            let back = between(&open, &closed);
            assert!(!back.all.is_empty(), "{says}");
            assert!(back.opened.is_empty() || port.contains("198.51.100.0"), "{back:?}");
        }
        assert_eq!(between(&config("", PORT), &config("", PORT)), Changes::default());
    }

    #[test]
    fn every_section_that_changed_is_named_with_both_values() {
        let control = |listen: &str, key: &str| {
            format!(
                "[control]\nlisten = \"{listen}\"\ncertificate = \"/a.pem\"\nkey = \"{key}\"\n\
                 client_ca = \"/ca.pem\"\n"
            )
        };
        let plain = control("192.0.2.1:7443", "/a.key");
        for (before, after, says) in [
            (
                String::new(),
                "[limits]\nmax_duration = \"2h\"\n".to_owned(),
                &["[limits] max_duration 86400s -> 7200s"][..],
            ),
            (
                plain.clone(),
                control("192.0.2.1:7444", "/b.key"),
                &[
                    "[control] listen 192.0.2.1:7443 -> 192.0.2.1:7444",
                    "[control] key /a.key -> /b.key",
                ],
            ),
            (
                plain,
                String::new(),
                &[
                    "[control] listen 192.0.2.1:7443 -> nothing",
                    "[control] certificate /a.pem -> nothing",
                    "[control] key /a.key -> nothing",
                    "[control] client_ca /ca.pem -> nothing",
                ],
            ),
            (
                String::new(),
                "[metrics]\nlisten = \"127.0.0.1:9477\"\n".to_owned(),
                &["[metrics] listen nowhere -> 127.0.0.1:9477"],
            ),
            (
                "[audit]\nkeep = 3\n".to_owned(),
                String::new(),
                &["[audit] 3 files of 33554432 bytes -> 16 files of 33554432 bytes"],
            ),
        ] {
            let changes = between(
                &config("", &format!("{PORT}{before}")),
                &config("", &format!("{PORT}{after}")),
            );
            assert_eq!(changes.all, says);
            assert_eq!(changes.opened, [""; 0]);
        }
    }
}
