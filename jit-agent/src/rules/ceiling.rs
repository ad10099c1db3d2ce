//! The most that a pushed policy may ask for: `[ceiling]` of the host's own configuration.
//!
//! What the file says about a port is always allowed for that port; the ceiling allows what may be
//! laxer. A missing key allows nothing, so with an empty `[ceiling]` a policy can only tighten. The
//! alternative, a ceiling without regard to the file, would make every host repeat its `[[port]]`
//! sections in it. For a port that `arm` lists and the file does not have, a missing key means the
//! default.

use std::{collections::BTreeMap, time::Duration};

use jit_common::{Family, PortKey};
use jit_proto::{
    Exemption, PortRange, PortSection, Refusal, Sessions, SourcePrefix,
    port_section::{
        DEFAULT_APPROVALS, DEFAULT_PORT_DURATION, DEFAULT_WIDEST_V4, DEFAULT_WIDEST_V6,
    },
};

use crate::rules::{policy::Policy, refusal::Refused};

/// A `[ceiling]`. Where a value is `None`, no port of the file may be laxer than the file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Ceiling {
    /// The fewest approvals that a port may require.
    pub approvals: Option<usize>,
    /// Ports that a policy may protect and the file does not.
    pub arm: Vec<PortRange>,
    /// Ports of the file that a policy may leave open.
    pub disarm: Vec<PortRange>,
    /// Whether a port may have `sessions = "drain"`.
    pub drain: bool,
    /// Whether a policy may exempt sources.
    pub exemptions: bool,
    /// Whether a port may have `terminates = "forwarded"`.
    pub forwarded: bool,
    /// The longest grant that a port may allow.
    pub max_duration: Option<Duration>,
    /// Whether a port may be in observe mode.
    pub observe: bool,
    /// Good signatures by distinct keys that a policy itself needs.
    pub policy_approvals: usize,
    /// The widest sources that a port may allow.
    pub sources: Vec<SourcePrefix>,
    /// Shortest IPv4 prefix that a port may allow to a grant, bits.
    pub widest_v4: Option<u8>,
    /// Shortest IPv6 prefix that a port may allow to a grant, bits.
    pub widest_v6: Option<u8>,
}

impl Ceiling {
    /// Whether a policy stays within the ceiling; `file` are the host's own sections
    /// (docs/grants.md, step `ceiling`).
    pub fn check(&self, sections: &[PortSection], file: &Policy) -> Result<(), Refused> {
        self.check_whole(sections, file).map_err(|detail| Refused::new(Refusal::Ceiling, detail))
    }

    fn check_whole(&self, sections: &[PortSection], file: &Policy) -> Result<(), String> {
        for (port, _) in file.rules() {
            let kept = sections.iter().any(|section| section.range.has(port));
            if !kept && !has(&self.disarm, port) {
                return Err(format!(
                    "{}/{} is protected by this host's own configuration, and [ceiling] disarm \
                     does not list it",
                    port.port,
                    port.protocol.word()
                ));
            }
        }
        for section in sections {
            for port in section.range.ports() {
                let own = file.port(port);
                if own.is_none() && !has(&self.arm, port) {
                    return Err(format!(
                        "{}/{} is not protected by this host's own configuration, and [ceiling] arm \
                         does not list it",
                        port.port,
                        port.protocol.word()
                    ));
                }
                self.check_port(section, own).map_err(|what| {
                    format!(
                        "{}/{}: {what}, which is more than [ceiling] allows",
                        port.port,
                        port.protocol.word()
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Checks one port of a section against the ceiling and the file's section for it.
    fn check_port(&self, section: &PortSection, own: Option<&PortSection>) -> Result<(), String> {
        let own_is = |lax: fn(&PortSection) -> bool| own.is_some_and(lax);
        if section.observe && !self.observe && !own_is(|own| own.observe) {
            return Err("mode is observe".into());
        }
        if section.sessions == Sessions::Drain
            && !self.drain
            && !own_is(|own| own.sessions == Sessions::Drain)
        {
            return Err("sessions is drain".into());
        }
        if section.forwarded && !self.forwarded && !own_is(|own| own.forwarded) {
            return Err("terminates is forwarded".into());
        }
        let longest = laxest(
            own.map(|own| own.max_duration),
            self.max_duration,
            DEFAULT_PORT_DURATION,
            Duration::max,
        );
        if section.max_duration > longest {
            return Err(format!(
                "max_duration is {:.0?}; at most {longest:.0?}",
                section.max_duration
            ));
        }
        let own_approvals = own.map(|own| own.approvals);
        let fewest = laxest(own_approvals, self.approvals, DEFAULT_APPROVALS, usize::min);
        if section.approvals < fewest {
            return Err(format!("approvals is {}; at least {fewest}", section.approvals));
        }
        let own_v4 = own.map(|own| own.widest_v4);
        let own_v6 = own.map(|own| own.widest_v6);
        let widest_v4 = laxest(own_v4, self.widest_v4, DEFAULT_WIDEST_V4, u8::min);
        let widest_v6 = laxest(own_v6, self.widest_v6, DEFAULT_WIDEST_V6, u8::min);
        for (key, asked, widest) in [
            ("widest_v4", section.widest_v4, widest_v4),
            ("widest_v6", section.widest_v6, widest_v6),
        ] {
            if asked < widest {
                return Err(format!("{key} is {asked}; at least {widest}"));
            }
        }
        let allowed: Vec<_> =
            self.sources.iter().chain(own.iter().flat_map(|own| &own.sources)).collect();
        for source in &section.sources {
            if !allowed.iter().any(|allowed| allowed.contains(source)) {
                return Err(format!("sources has {source}"));
            }
        }
        for exemption in &section.exemptions {
            self.check_exemption(exemption, own)?;
        }
        Ok(())
    }

    /// An exemption of the file is always allowed. Another one needs `exemptions`, and may not be
    /// wider than the ceiling's `widest_v4` or `widest_v6`. Where the ceiling has no such key, it
    /// may be wider than neither the port's own nor the default, because nobody signs for whom it
    /// lets in.
    fn check_exemption(
        &self,
        exemption: &Exemption,
        own: Option<&PortSection>,
    ) -> Result<(), String> {
        let Exemption { source, .. } = exemption;
        if own.is_some_and(|own| own.exemptions.iter().any(|own| own.covers(exemption))) {
            return Ok(());
        }
        if !self.exemptions {
            return Err(format!("it exempts {source}"));
        }
        let (given, own, default) = match source.address().family {
            Family::V4 => (self.widest_v4, own.map(|own| own.widest_v4), DEFAULT_WIDEST_V4),
            Family::V6 => (self.widest_v6, own.map(|own| own.widest_v6), DEFAULT_WIDEST_V6),
        };
        let widest = given.unwrap_or_else(|| own.unwrap_or(default).max(default));
        let inside = self.sources.iter().any(|allowed| allowed.contains(source));
        if !inside || source.length() < widest {
            return Err(format!(
                "it exempts {source}, which is outside sources or wider than widest_v4/v6"
            ));
        }
        Ok(())
    }

    /// What is in force under a pushed policy: its sections, and those of the file's ports that it
    /// may not leave out. (The check at the push allowed no such port to be missing, but the file
    /// may have changed since.) `control_port`, the agent's own, is never protected.
    pub fn in_force(
        &self,
        sections: &[PortSection],
        file: &Policy,
        control_port: Option<PortKey>,
    ) -> Policy {
        let own = file
            .sections()
            .iter()
            .flat_map(|section| section.range.ports().map(move |port| (port, section)))
            .filter(|(port, _)| !has(&self.disarm, *port));
        let pushed = sections
            .iter()
            .flat_map(|section| section.range.ports().map(move |port| (port, section)));
        let mut by_port: BTreeMap<PortKey, &PortSection> = own.chain(pushed).collect();
        if let Some(control_port) = control_port {
            by_port.remove(&control_port);
        }
        let mut parts: Vec<(PortRange, &PortSection)> = Vec::new();
        for (PortKey { protocol, port }, section) in by_port {
            match parts.last_mut() {
                Some((range, last))
                    if std::ptr::eq(*last, section)
                        && range.protocol == protocol
                        && range.last.checked_add(1) == Some(port) =>
                {
                    range.last = port;
                }
                _ => parts.push((PortRange { protocol, first: port, last: port }, section)),
            }
        }
        let sections =
            parts.into_iter().map(|(range, part)| PortSection { range, ..part.clone() }).collect();
        Policy::new(sections, file.max_duration()).expect("each port has one section in the map")
    }

    /// What is in force when a policy was pushed and its content is lost: every port that a policy
    /// may protect, by the strictest rules.
    pub fn everything(&self, file: &Policy, control_port: Option<PortKey>) -> Policy {
        let sections: Vec<_> = self
            .arm
            .iter()
            .map(|range| PortSection {
                range: *range,
                observe: false,
                sources: self.sources.clone(),
                widest_v4: self.widest_v4.unwrap_or(DEFAULT_WIDEST_V4),
                widest_v6: self.widest_v6.unwrap_or(DEFAULT_WIDEST_V6),
                max_duration: self.max_duration.unwrap_or(DEFAULT_PORT_DURATION),
                approvals: self.approvals.unwrap_or(DEFAULT_APPROVALS),
                sessions: if self.drain { Sessions::Drain } else { Sessions::Cut },
                forwarded: self.forwarded,
                exemptions: Vec::new(),
            })
            .collect();
        // The file's section takes precedence for its ports.
        let own = Self { disarm: Vec::new(), ..self.clone() };
        let armed = own.in_force(&sections, &Policy::default(), control_port);
        own.in_force(file.sections(), &armed, control_port).with_max_duration(file.max_duration())
    }
}

/// The laxer of the file's value for a port and the ceiling's; the default when neither has one.
fn laxest<T>(own: Option<T>, ceiling: Option<T>, default: T, laxer: fn(T, T) -> T) -> T {
    match (own, ceiling) {
        (Some(own), Some(ceiling)) => laxer(own, ceiling),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => default,
    }
}

fn has(ranges: &[PortRange], port: PortKey) -> bool {
    ranges.iter().any(|range| range.has(port))
}
