//! The signer's own limits: what is never signed, whoever has agreed.

use std::collections::VecDeque;

use jit_common::Family;
use jit_proto::{PortRange, SourcePrefix};

use super::{refused::Refused, settings::Limits};
use crate::model::Proposal;

/// The time in which signatures are counted, milliseconds.
const MINUTE_MS: i64 = 60_000;

impl Limits {
    /// Whether a grant of this proposal may be signed at all.
    pub(super) fn allow(&self, proposal: &Proposal) -> Result<(), Refused> {
        let over = |detail| Err(Refused { word: "over_limit", detail });
        if proposal.duration() > self.longest {
            return over(format!(
                "it lasts {} s; at most {} s",
                proposal.duration().as_secs(),
                self.longest.as_secs()
            ));
        }
        let closed = |port: &&PortRange| !self.ports.is_empty() && !is_within(**port, &self.ports);
        if let Some(port) = proposal.ports.iter().find(closed) {
            return over(format!("port {port} is not one that this signer opens"));
        }
        self.allow_hosts(&proposal.hosts)?;
        if let Some(source) = proposal.sources.iter().find(|source| self.is_too_wide(source)) {
            return over(format!(
                "the source {source} is too wide: at most /{} for IPv4 and /{} for IPv6",
                self.widest_ipv4, self.widest_ipv6
            ));
        }
        Ok(())
    }

    /// Whether something may be signed for these hosts.
    pub(super) fn allow_hosts(&self, hosts: &[String]) -> Result<(), Refused> {
        let over = |detail| Err(Refused { word: "over_limit", detail });
        if hosts.len() > self.hosts_a_request {
            return over(format!("{} hosts; at most {}", hosts.len(), self.hosts_a_request));
        }
        let closed = |host: &&String| {
            !self.hosts.is_empty() && !self.hosts.iter().any(|glob| matches(glob, host))
        };
        match hosts.iter().find(closed) {
            Some(host) => over(format!("{host:?} is not a host that this signer opens")),
            None => Ok(()),
        }
    }

    fn is_too_wide(&self, source: &SourcePrefix) -> bool {
        let widest = match source.address().family {
            Family::V4 => self.widest_ipv4,
            Family::V6 => self.widest_ipv6,
        };
        source.length() < widest
    }
}

/// Whether one of the ranges has the whole of this one.
pub(super) fn is_within(port: PortRange, ranges: &[PortRange]) -> bool {
    ranges.iter().any(|range| {
        range.protocol == port.protocol && range.first <= port.first && port.last <= range.last
    })
}

/// Whether a text fits a pattern in which `*` is any text and `?` one character.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // After the last star, and the text that it has taken.
    let mut star: Option<(usize, usize)> = None;
    while let Some(letter) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(wanted) if *wanted == '?' || wanted == letter => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, taken)) = star else { return false };
                (p, t) = (after, taken + 1);
                star = Some((after, taken + 1));
            }
        }
    }
    pattern.iter().skip(p).all(|rest| *rest == '*')
}

/// When the last signatures were made.
#[derive(Debug)]
pub(super) struct Rate {
    most: usize,
    times: VecDeque<i64>,
}

impl Rate {
    /// The most in a minute, and the times of signatures that were made before, oldest first.
    pub(super) fn new(most: u32, before: impl IntoIterator<Item = i64>) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let mut rate = Self { most, times: VecDeque::new() };
        for time in before {
            rate.add(time);
        }
        rate
    }

    /// Counts a signature, if there is room for it; otherwise the time until there is, milliseconds.
    pub(super) fn take(&mut self, now_ms: i64) -> Result<(), i64> {
        // A clock that was set back makes a time of the future: it does not count for ever.
        self.times.retain(|time| (now_ms - MINUTE_MS..=now_ms + MINUTE_MS).contains(time));
        match self.times.front() {
            Some(first) if self.times.len() >= self.most => {
                Err((first + MINUTE_MS - now_ms).clamp(1, MINUTE_MS))
            }
            _ => {
                self.add(now_ms);
                Ok(())
            }
        }
    }

    fn add(&mut self, time: i64) {
        self.times.push_back(time);
        if self.times.len() > self.most {
            self.times.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::proposal::tests::ssh;

    #[test]
    fn patterns_match_whole_ids() {
        for (pattern, text, fits) in [
            ("*", "web-1", true),
            ("*", "", true),
            ("web-*", "web-1", true),
            ("web-*", "my-web-1", false),
            ("web-?", "web-12", false),
            ("*-db-*", "eu-db-7", true),
            ("*-db", "eu-db-7", false),
            ("a*b*c", "a-b-b-c", true),
            ("web-1", "web-1", true),
            ("web-1", "web-10", false),
            ("", "x", false),
            ("?", "\u{fc}", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
        let long = "a".repeat(20_000);
        assert!(!matches(&"*a".repeat(100), &format!("{long}b")));
    }

    #[test]
    fn each_limit_is_one() {
        let allow = |limits: &Limits| limits.allow(&ssh()).map_err(|refused| refused.detail);
        let free = Limits::default();
        assert_eq!(allow(&free), Ok(()));
        let text = |limits| allow(&limits).unwrap_err();
        let longest = std::time::Duration::from_secs(3599);
        assert!(text(Limits { longest, ..free.clone() }).contains("3600 s"));
        let ports = vec!["80-90".parse().unwrap(), "22/udp".parse().unwrap()];
        assert!(text(Limits { ports, ..free.clone() }).contains("22/tcp"));
        let ports = vec!["20-30".parse().unwrap()];
        assert_eq!(allow(&Limits { ports, ..free.clone() }), Ok(()));
        let hosts = vec!["db-*".to_owned()];
        assert!(text(Limits { hosts, ..free.clone() }).contains("web-1"));
        let mut wide = ssh();
        wide.sources = vec!["203.0.0.0/15".parse().unwrap()];
        assert_eq!(free.allow(&wide).unwrap_err().word, "over_limit");
        wide.sources = vec!["::/0".parse().unwrap()];
        assert_eq!(free.allow(&wide).unwrap_err().word, "over_limit");
        let mut many = ssh();
        many.hosts = (0..1001).map(|number| format!("h{number}")).collect();
        assert!(free.allow(&many).unwrap_err().detail.contains("1001 hosts"));
    }

    #[test]
    fn a_minute_has_so_many_signatures_and_then_a_wait() {
        let mut rate = Rate::new(2, [0]);
        assert_eq!(rate.take(10_000), Ok(()));
        assert_eq!(rate.take(20_000), Err(40_000));
        assert_eq!(rate.take(60_001), Ok(()));
        assert_eq!(rate.take(60_002), Err(9_998));
        // The clock was set back by an hour.
        let mut rate = Rate::new(1, [3_600_000]);
        assert_eq!(rate.take(0), Ok(()));
    }
}
