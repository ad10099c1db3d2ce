//! What this host protects, and the most that any grant may open (docs/grants.md, steps `times` to
//! `threshold`). No grant, by whichever key, opens more than the host allows.

use std::{collections::BTreeMap, time::Duration};

use jit_common::{Family, PortKey, PortRule};
use jit_proto::{PortSection, Refusal, SourcePrefix, WallTime, port_section::by_port};

use crate::rules::{
    approvals::Approvals,
    clock::{Now, SKEW},
    grant::VerifiedGrant,
    keyring::Keyring,
    refusal::Refused,
};

/// The protected ports, with the rules of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    sections: Vec<PortSection>,
    /// Port to index of its section.
    by_port: BTreeMap<PortKey, usize>,
    /// The longest grant on any port.
    max_duration: Duration,
}

impl Policy {
    /// A policy of these sections. The error is the first port that two sections name.
    pub fn new(sections: Vec<PortSection>, max_duration: Duration) -> Result<Self, PortKey> {
        let by_port = by_port(&sections)?;
        Ok(Self { sections, by_port, max_duration })
    }

    /// The sections, in the order of the configuration.
    pub fn sections(&self) -> &[PortSection] {
        &self.sections
    }

    /// The same policy with another longest grant.
    #[must_use]
    pub fn with_max_duration(self, max_duration: Duration) -> Self {
        Self { max_duration, ..self }
    }

    /// The longest grant on any port; a port may allow less.
    pub const fn max_duration(&self) -> Duration {
        self.max_duration
    }

    /// The longest time from now until a grant can end that the agent has not seen yet.
    pub fn longest_ahead(&self) -> Duration {
        HORIZON + self.max_duration
    }

    /// Every protected port with its kernel rule.
    pub fn rules(&self) -> impl Iterator<Item = (PortKey, PortRule)> + '_ {
        self.by_port.iter().filter_map(|(port, index)| {
            self.sections.get(*index).map(|section| (*port, section.rule()))
        })
    }

    /// Every exemption, also one that has ended: port, source, end.
    pub fn exemptions(
        &self,
    ) -> impl Iterator<Item = (PortKey, SourcePrefix, Option<WallTime>)> + '_ {
        self.sections.iter().flat_map(|section| {
            section.range.ports().flat_map(|port| {
                section
                    .exemptions
                    .iter()
                    .map(move |exemption| (port, exemption.source, exemption.until))
            })
        })
    }

    /// The rules for a port; `None` when it is not protected.
    pub fn port(&self, port: PortKey) -> Option<&PortSection> {
        self.by_port.get(&port).and_then(|index| self.sections.get(*index))
    }

    /// Checks times, ceiling, limits of the keys that signed, and threshold (docs/grants.md, steps
    /// `times` to `threshold`). A grant that was accepted before is checked again, by the present
    /// keys.
    pub fn check(&self, grant: &VerifiedGrant, keyring: &Keyring, now: Now) -> Result<(), Refused> {
        self.check_whole(grant, keyring, now).map_err(|refused| refused.of(grant.id()))
    }

    fn check_whole(
        &self,
        grant: &VerifiedGrant,
        keyring: &Keyring,
        now: Now,
    ) -> Result<(), Refused> {
        if grant.is_break_glass() {
            return self.check_break_glass(grant);
        }
        let lifetime = check_times(grant, now)?;
        self.check_content(grant, lifetime, &Approvals::of(grant, keyring, now))
    }

    /// Checks ceiling and threshold again for a grant that has opened (docs/grants.md, steps
    /// `ceiling` to `threshold`). Its window, and those of its keys, are not judged again.
    pub fn check_open(&self, grant: &VerifiedGrant, keyring: &Keyring) -> Result<(), Refused> {
        if grant.is_break_glass() {
            return self.check_break_glass(grant);
        }
        let lifetime = grant.not_after().since(grant.not_before()).unwrap_or_default();
        let checked = self.check_content(grant, lifetime, &Approvals::of_open(grant, keyring));
        checked.map_err(|refused| refused.of(grant.id()))
    }

    /// Checks an opening by root: its ports are protected, and its sources are no wider than those
    /// of any grant. It may name other sources than grants may, and needs no approvals.
    pub fn check_break_glass(&self, grant: &VerifiedGrant) -> Result<(), Refused> {
        let sections = self.sections_of(grant).map_err(|refused| refused.of(grant.id()))?;
        for section in sections {
            for source in grant.sources() {
                check_width(section, source).map_err(|refused| refused.of(grant.id()))?;
            }
        }
        Ok(())
    }

    /// Checks that the keys of a grant may open the whole of the one that it replaces
    /// (docs/grants.md, step `replaces`).
    pub fn check_replaced(
        &self,
        grant: &VerifiedGrant,
        replaced: &VerifiedGrant,
        keyring: &Keyring,
        now: Now,
    ) -> Result<(), Refused> {
        let ports = replaced.ports().iter().flat_map(|range| range.ports());
        let sections: Vec<_> = ports.filter_map(|port| self.port(port)).collect();
        check_threshold(&sections, &Approvals::to_replace(grant, replaced, keyring, now))
    }

    fn check_content(
        &self,
        grant: &VerifiedGrant,
        lifetime: Duration,
        approvals: &Approvals,
    ) -> Result<(), Refused> {
        let sections = self.sections_of(grant)?;
        self.check_lifetime(&sections, lifetime)?;
        for section in &sections {
            for source in grant.sources() {
                check_source(section, source)?;
            }
        }
        check_threshold(&sections, approvals)
    }

    /// The sections of the grant's ports, each once.
    fn sections_of(&self, grant: &VerifiedGrant) -> Result<Vec<&PortSection>, Refused> {
        let mut indices = Vec::new();
        for port in grant.ports().iter().flat_map(|range| range.ports()) {
            let Some(index) = self.by_port.get(&port) else {
                let detail =
                    format!("{}/{} is not protected here", port.port, port.protocol.word());
                return Err(Refused::new(Refusal::PortNotProtected, detail));
            };
            if !indices.contains(index) {
                indices.push(*index);
            }
        }
        Ok(indices.into_iter().filter_map(|index| self.sections.get(index)).collect())
    }

    fn check_lifetime(&self, sections: &[&PortSection], lifetime: Duration) -> Result<(), Refused> {
        let most = sections
            .iter()
            .map(|section| (Some(section.range), section.max_duration))
            .chain([(None, self.max_duration)]);
        for (range, most) in most {
            if lifetime > most {
                let whose = range.map_or_else(|| "this host".to_owned(), |range| range.to_string());
                let detail = format!("it lasts {lifetime:.0?}; {whose} allows at most {most:.0?}");
                return Err(Refused::new(Refusal::Lifetime, detail));
            }
        }
        Ok(())
    }
}

/// How far from now a grant may begin.
pub const HORIZON: Duration = Duration::from_secs(7 * 24 * 3600);

/// Checks the window against the clock (docs/grants.md, step `times`). Returns its length.
fn check_times(grant: &VerifiedGrant, now: Now) -> Result<Duration, Refused> {
    let (from, to) = (grant.not_before(), grant.not_after());
    let Some(lifetime) = to.since(from) else {
        let detail = format!("not_after {to} is not later than not_before {from}");
        return Err(Refused::new(Refusal::Lifetime, detail));
    };
    if to <= now.wall {
        let detail = format!("it ended at {to}; this host's clock says {}", now.wall);
        return Err(Refused::new(Refusal::Expired, detail));
    }
    if grant.issued_at() > now.wall + SKEW {
        let detail = format!(
            "issued at {}, more than {} s ahead of this host's clock, {}",
            grant.issued_at(),
            SKEW.as_secs(),
            now.wall
        );
        return Err(Refused::new(Refusal::NotYetValid, detail));
    }
    if from > now.wall + HORIZON {
        let days = HORIZON.as_secs() / 86_400;
        let detail = format!("it begins at {from}, more than {days} days from now");
        return Err(Refused::new(Refusal::NotYetValid, detail));
    }
    Ok(lifetime)
}

/// Checks that there are as many approvals as each section asks for (docs/grants.md, step
/// `threshold`).
fn check_threshold(sections: &[&PortSection], approvals: &Approvals) -> Result<(), Refused> {
    if approvals.count == 0 {
        return Err(approvals.refusal());
    }
    if !approvals.has_signer {
        let detail = format!(
            "only approvers signed it; a grant also needs a good signature by a [[signer]]{}",
            approvals.others()
        );
        return Err(Refused::new(Refusal::ApprovalsMissing, detail));
    }
    let Some(section) = sections.iter().find(|section| approvals.count < section.approvals) else {
        return Ok(());
    };
    let detail = format!(
        "{} needs good signatures by {} distinct keys; there are {}{}",
        section.range,
        section.approvals,
        approvals.count,
        approvals.others()
    );
    Err(Refused::new(Refusal::ApprovalsMissing, detail))
}

/// Checks one source against those of the port (docs/grants.md, step `ceiling`).
fn check_source(section: &PortSection, source: &SourcePrefix) -> Result<(), Refused> {
    if !section.sources.iter().any(|allowed| allowed.contains(source)) {
        let allowed: Vec<_> = section.sources.iter().map(ToString::to_string).collect();
        let detail = format!(
            "{source} is not inside the sources that {} allows: {}",
            section.range,
            allowed.join(", ")
        );
        return Err(Refused::new(Refusal::SourceNotAllowed, detail));
    }
    check_width(section, source)
}

/// Checks that a source is not too wide (docs/grants.md, step `ceiling`).
fn check_width(section: &PortSection, source: &SourcePrefix) -> Result<(), Refused> {
    let widest = match source.address().family {
        Family::V4 => section.widest_v4,
        Family::V6 => section.widest_v6,
    };
    if source.length() < widest {
        let detail =
            format!("{source} is wider than {} allows: /{widest} at the widest", section.range);
        return Err(Refused::new(Refusal::SourceTooWide, detail));
    }
    Ok(())
}
