//! Explains an answer of the programs: who gets in by what, or what is missing. Pure: it gets all
//! that is known.

use jit_common::{PortKey, Protocol};
use jit_proto::{
    PortRange, SourcePrefix, WallTime,
    prefix::{bits, ip},
    printable::clean,
    v1::{self, State},
    words::{duration, id_text, ranges_text, source_text},
};

use crate::{kernel::datapath::verdict::Question, oncall::why::refused::RefusedPush};

/// Longest name or text of a grant that is shown, characters.
const WIDTH: usize = 60;
/// Most sources of a grant, and most grants of one kind, that are named.
const NAMED: usize = 3;
/// Most keys that the command names: as many as a grant can have signatures.
const MOST_KEYS: u32 = 8;

/// What is known about a question.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    pub(super) question: Question,
    /// Only connections by this interface.
    pub(super) interface: Option<&'a str>,
    pub(super) requester: Option<&'a str>,
    pub(super) answer: &'a v1::WhyResponse,
    /// Refused grants for the source or the requester, the newest last.
    pub(super) refused: &'a [RefusedPush],
    pub(super) now: WallTime,
}

/// The explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Explanation {
    pub(super) open: bool,
    /// The answer in one sentence, without OPEN or CLOSED.
    pub(super) sentence: String,
    /// What else there is to know, one sentence each.
    pub(super) more: Vec<String>,
    /// The command that would ask for a grant; `None`: none is missing, or none would help.
    pub(super) ask: Option<String>,
}

impl Known<'_> {
    /// The interfaces that the question is about.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &v1::WhyInterface> {
        let wanted = |way: &&v1::WhyInterface| self.interface.is_none_or(|name| way.name == name);
        self.answer.interfaces.iter().filter(wanted)
    }

    pub(super) fn explain(&self) -> Explanation {
        let ways: Vec<_> = self.interfaces().collect();
        let own = self.answer.own && self.interface.is_none();
        // Without an interface that says no, nothing says no.
        let by_guard = self.answer.guard.as_ref().is_none_or(|guard| guard.open);
        let open = own
            || ways.iter().any(|way| way.open)
            || ways.is_empty() && self.interface.is_none() && by_guard;
        let mut reasons = if open { self.why_open(own) } else { self.why_closed() };
        let subject = format!("{} to {}", ip(self.question.source), self.port_text());
        let first = if reasons.is_empty() { String::new() } else { reasons.remove(0) };
        let grantable = self.answer.not_grantable.is_empty() && self.answer.port.is_some();
        let asks = !open && grantable && self.packet_reason().is_none();
        reasons.extend(self.approvals_text().filter(|_| asks));
        Explanation {
            open,
            sentence: format!("{subject}: {first}"),
            more: reasons,
            ask: asks.then(|| self.ask()),
        }
    }

    /// Number of signatures that a grant for the port needs.
    fn approvals(&self) -> u32 {
        self.answer.port.as_ref().map_or(1, |port| port.approvals.max(1))
    }

    /// How a grant gets its approvals, if it needs several.
    fn approvals_text(&self) -> Option<String> {
        let needed = self.approvals();
        (needed > 1).then(|| {
            format!(
                "{} needs {needed} approvals: signatures of the same grant by {needed} different keys \
                 (one --signing-key for each)",
                self.port_text()
            )
        })
    }

    fn port_text(&self) -> String {
        let PortKey { port, protocol } = self.question.port;
        format!("{port}/{}", protocol.word())
    }

    /// The entry by which the programs let the source in.
    pub(super) fn deciding(&self) -> Option<&v1::WhyEntry> {
        let live = || self.answer.entries.iter().filter(|entry| entry.left_ms > 0 || entry.forever);
        let has_room = |entry: &&v1::WhyEntry| entry.hits < u64::from(entry.max_connections);
        live().find(|entry| entry.max_connections == 0).or_else(|| live().find(has_room))
    }

    fn why_open(&self, own: bool) -> Vec<String> {
        let port = self.port_text();
        let mut reasons = Vec::new();
        let observed = self.answer.port.as_ref().is_some_and(|port| port.mode == "observe");
        let denied = self.interfaces().any(|way| {
            let verdicts = [&way.gate, &way.guard];
            verdicts.into_iter().flatten().any(|v| v.open && v.reason == "denied")
        });
        let empty = self.answer.interfaces.is_empty() && self.answer.guard.is_none();
        if own {
            reasons.push("it is an address of this host, which needs no grant".into());
        } else if empty && self.answer.from_tables {
            reasons.push("no program is in the kernel: every port is open".into());
        } else if self.answer.port.is_none() {
            reasons.push(format!("{port} is not protected"));
        } else if let Some(entry) = self.deciding() {
            reasons.push(self.entry_text(entry));
        } else if observed || denied {
            reasons.push("observe mode lets it pass; enforce mode would drop it (denied)".into());
        }
        let no_grant = self.answer.port.is_some() && self.deciding().is_none() && !own;
        for way in self.interfaces().filter(|way| no_grant && way.open && way.gate.is_none()) {
            let guard = if way.guard.is_some() {
                "the socket guard lets it in"
            } else {
                "no socket guard stops it"
            };
            reasons.push(format!("{} has no gate ({}), and {guard}", way.name, way.hook));
        }
        if reasons.is_empty() {
            reasons.push("the loaded programs let it in, and no entry explains it".into());
        }
        let closed: Vec<_> =
            self.interfaces().filter(|way| !way.open).map(|way| way.name.as_str()).collect();
        if !closed.is_empty() && !own {
            reasons.push(format!("it is closed by {}", closed.join(", ")));
        }
        reasons
    }

    /// A reason of the packet's, which no grant changes.
    fn packet_reason(&self) -> Option<&str> {
        let verdicts = self.interfaces().flat_map(|way| [&way.gate, &way.guard]).flatten();
        let mut closed = verdicts.filter(|verdict| !verdict.open && !verdict.reason.is_empty());
        closed.find(|verdict| verdict.reason != "denied").map(|verdict| verdict.reason.as_str())
    }

    fn why_closed(&self) -> Vec<String> {
        let mut reasons: Vec<_> = self
            .packet_reason()
            .map(|word| format!("the packet itself is refused ({word}), with or without a grant"))
            .into_iter()
            .collect();
        let all: Vec<_> = self.answer.grants.iter().filter_map(Grant::read).collect();
        let (mut covering, others): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|grant| grant.covers(self.question) && grant.opens(self.question));
        covering.sort_by_key(|grant| state_order(grant.state));
        reasons.extend(covering.iter().take(NAMED).map(|grant| self.covering_text(grant)));
        if covering.is_empty() {
            reasons.extend(self.used_up_entry());
        }
        if !self.answer.not_grantable.is_empty() {
            let why = clean(&self.answer.not_grantable, 200);
            reasons.push(format!("no grant can let this source in: {why}"));
        }
        let missed = others.iter().filter_map(|grant| self.near_text(grant));
        reasons.extend(missed.take(NAMED));
        let only_near = covering.is_empty()
            && self.answer.not_grantable.is_empty()
            && self.packet_reason().is_none()
            && self.used_up_entry().is_none();
        match reasons.first_mut() {
            None => reasons.push("no grant covers it".into()),
            Some(first) if only_near => *first = format!("no grant covers it; {first}"),
            Some(_) => {}
        }
        reasons
    }

    /// Without an agent: a live entry that lets nobody more in.
    fn used_up_entry(&self) -> Option<String> {
        let mut entries = self.answer.entries.iter();
        let full = entries.find(|entry| {
            entry.max_connections > 0
                && entry.hits >= u64::from(entry.max_connections)
                && entry.left_ms > 0
        })?;
        Some(format!("{}: it is used up", self.entry_text(full)))
    }

    /// Why a grant for this source and port does not let in.
    fn covering_text(&self, grant: &Grant<'_>) -> String {
        let name = grant.name();
        let at = |millis| WallTime(millis).to_string();
        let signed = &grant.signed;
        match grant.state {
            State::Exhausted => {
                format!(
                    "{name} is used up: {} of {} connections",
                    grant.hits, signed.max_connections
                )
            }
            State::Active if signed.max_connections > 0 => {
                format!(
                    "{name} has no place left: {} of {} connections",
                    grant.hits, signed.max_connections
                )
            }
            State::Active => {
                format!("{name} is live, but the kernel does not let it in: see `jit-agent status`")
            }
            State::Scheduled => {
                let left = duration(signed.not_before_ms.saturating_sub(self.now.0));
                format!(
                    "{name} has not begun: it begins at {} (in {left})",
                    at(signed.not_before_ms)
                )
            }
            State::Expired => format!("{name} ended at {}", at(signed.not_after_ms)),
            State::Revoked => {
                format!("{name} was revoked before its end ({})", at(signed.not_after_ms))
            }
            State::Replaced => format!("{name} was replaced by another grant"),
            State::Unspecified => format!("{name} is in a state that this version does not know"),
        }
    }

    /// What a grant covers that is not quite what was asked for. Only those that still open
    /// something, or are of the person in question.
    fn near_text(&self, grant: &Grant<'_>) -> Option<String> {
        let theirs = self.requester.is_some_and(|name| grant.signed.requester == name);
        let live = matches!(grant.state, State::Active | State::Exhausted | State::Scheduled);
        if !live && !theirs {
            return None;
        }
        let name = grant.name();
        let state = match grant.state {
            State::Active => "",
            State::Scheduled => " (not begun)",
            State::Exhausted => " (used up)",
            _ => " (ended)",
        };
        let ports = ranges_text(&grant.signed.ports);
        let sources = some(&grant.signed.sources, source_text);
        match (grant.covers(self.question), grant.opens(self.question)) {
            (true, _) => Some(format!("{name}{state} lets this source in to {ports} only")),
            (_, true) => Some(format!("{name}{state} is for {sources}, not for this source")),
            _ => Some(format!("{name}{state} is for {sources} to {ports}")),
        }
    }

    fn entry_text(&self, entry: &v1::WhyEntry) -> String {
        let place = entry.source.as_ref().map(source_text).unwrap_or_default();
        let left = if entry.forever {
            "no end".into()
        } else {
            format!("{} left", duration(entry.left_ms))
        };
        if entry.exempt {
            return format!("an exemption for {place} lets it in, {left}");
        }
        let grants = self.answer.grants.iter().filter_map(Grant::read);
        let mut grants =
            grants.filter(|grant| !entry.grant_id.is_empty() && grant.signed.id == entry.grant_id);
        let count = match entry.max_connections {
            0 => String::new(),
            most => format!(", {} of {most} connections", entry.hits),
        };
        match grants.next() {
            Some(grant) => format!("{} lets it in, for {place}, {left}{count}", grant.name()),
            None => format!("a grant (in the kernel) for {place} lets it in, {left}{count}"),
        }
    }

    /// The command that asks for what is missing.
    fn ask(&self) -> String {
        let Question { source, port } = self.question;
        let udp = if port.protocol == Protocol::Udp { "/udp" } else { "" };
        let host = match &*self.answer.host {
            "" => "HOST".into(),
            host => shell(&clean(host, 512)),
        };
        let longest = self.answer.port.as_ref().map_or(0, |port| port.max_duration_ms);
        let lasts = match longest {
            1..3_600_000 => format!("{}s", (longest / 1000).max(1)),
            _ => "1h".into(),
        };
        let requester =
            self.requester.map(|name| format!(" --requester {}", shell(&clean(name, 256))));
        let keys = match self.approvals() {
            1 => " --signing-key KEY".to_owned(),
            needed => {
                (1..=needed.min(MOST_KEYS)).map(|n| format!(" --signing-key KEY{n}")).collect()
            }
        };
        format!(
            "jitctl grant{keys} --host {host} --source {} --port {}{udp} --for {lasts}{} \
             --why 'TEXT'",
            ip(source),
            port.port,
            requester.unwrap_or_default()
        )
    }
}

/// A grant of the answer.
struct Grant<'a> {
    signed: v1::Grant,
    state: State,
    hits: u64,
    signers: &'a [String],
}

impl<'a> Grant<'a> {
    fn read(state: &'a v1::GrantState) -> Option<Self> {
        Some(Self {
            signed: state.signed()?,
            state: state.state(),
            hits: state.hits,
            signers: &state.signers,
        })
    }

    fn name(&self) -> String {
        let requester = clean(&self.signed.requester, WIDTH);
        if self.signed.id.is_empty() {
            return format!("a grant {requester}");
        }
        let names = |verb: &str, names: &[String]| match names {
            [] => None,
            names => Some(format!("{verb} by {}", clean(&names.join(", "), WIDTH))),
        };
        let signers = names("signed", self.signers);
        let all: Vec<_> =
            signers.into_iter().chain(names("approved", &self.signed.approvers)).collect();
        // The database names no signers: its signatures are verified at the agent's start.
        let all = if all.is_empty() { String::new() } else { format!(" ({})", all.join(", ")) };
        format!("grant {} of {requester}{all}", id_text(&self.signed.id))
    }

    fn covers(&self, question: Question) -> bool {
        covers(&self.signed, question)
    }

    fn opens(&self, question: Question) -> bool {
        opens(&self.signed, question)
    }
}

/// Whether a grant is for the source.
pub(super) fn covers(grant: &v1::Grant, Question { source, .. }: Question) -> bool {
    let host = SourcePrefix::new(source, bits(source.family));
    host.is_ok_and(|host| {
        let prefixes = grant.sources.iter();
        prefixes.filter_map(|one| SourcePrefix::try_from(one).ok()).any(|one| one.contains(&host))
    })
}

/// Whether a grant is for the port.
pub(super) fn opens(grant: &v1::Grant, Question { port, .. }: Question) -> bool {
    let ranges = grant.ports.iter();
    ranges.filter_map(|range| PortRange::try_from(range).ok()).any(|range| range.has(port))
}

/// The states that a person can still do something about come first.
const fn state_order(state: State) -> u8 {
    match state {
        State::Active => 0,
        State::Exhausted => 1,
        State::Scheduled => 2,
        State::Expired => 3,
        State::Revoked => 4,
        State::Replaced => 5,
        State::Unspecified => 6,
    }
}

fn some<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    let named: Vec<_> = items.iter().take(NAMED).map(text).collect();
    match items.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// A word of a command line.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@:/+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use jit_common::Address;
    use prost::Message as _;

    use super::*;

    const NOW: WallTime = WallTime(1_780_272_000_000);
    const QUESTION: Question = Question {
        source: Address::v4([192, 0, 2, 7]),
        port: PortKey { protocol: Protocol::Tcp, port: 22 },
    };

    fn verdict(open: bool) -> Option<v1::WhyVerdict> {
        let reason = if open { "granted" } else { "denied" };
        Some(v1::WhyVerdict { open, reason: reason.into() })
    }

    /// One gated interface, on a protected port.
    fn answer(open: bool, grants: Vec<v1::GrantState>) -> v1::WhyResponse {
        let way = v1::WhyInterface {
            name: "eth0".into(),
            hook: "xdp_native".into(),
            open,
            gate: verdict(open),
            ..v1::WhyInterface::default()
        };
        v1::WhyResponse {
            host: "web 1".into(),
            interfaces: vec![way],
            guard: verdict(open),
            port: Some(v1::Port::default()),
            grants,
            ..v1::WhyResponse::default()
        }
    }

    fn grant(state: State, source: &str, port: u32, most: u32) -> v1::GrantState {
        let source: SourcePrefix = source.parse().unwrap();
        let range = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: port, last: port };
        let signed = v1::Grant {
            id: vec![1; 16].into(),
            requester: "ana".into(),
            approvers: vec!["li".into()],
            sources: vec![(&source).into()],
            ports: vec![range],
            not_before_ms: NOW.0 + 300_000,
            not_after_ms: NOW.0 - 60_000,
            max_connections: most,
            ..v1::Grant::default()
        };
        v1::GrantState {
            grant: signed.encode_to_vec().into(),
            state: state.into(),
            signers: vec!["prod".into()],
            hits: u64::from(most),
            ..v1::GrantState::default()
        }
    }

    fn explained(answer: &v1::WhyResponse, requester: Option<&str>) -> Explanation {
        let (question, now) = (QUESTION, NOW);
        Known { question, interface: None, requester, answer, refused: &[], now }.explain()
    }

    #[track_caller]
    fn says(answer: &v1::WhyResponse, open: bool, words: &[&str]) {
        let explanation = explained(answer, Some("ana"));
        assert_eq!(explanation.open, open, "{explanation:?}");
        for word in words {
            assert!(explanation.sentence.contains(word), "no {word:?}: {explanation:?}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let closed =
            |state, source, port, most| answer(false, vec![grant(state, source, port, most)]);
        says(&answer(false, Vec::new()), false, &["192.0.2.7 to 22/tcp: no grant covers it"]);
        for (state, says_so) in [
            (State::Exhausted, "is used up: 5 of 5 connections"),
            (State::Active, "has no place left"),
            (State::Scheduled, "has not begun: it begins at 2026-06-01T00:05:00Z (in 5m"),
            (State::Expired, "ended at 2026-05-31T23:59:00Z"),
            (State::Revoked, "was revoked"),
            (State::Replaced, "was replaced"),
        ] {
            let name = "of ana (signed by prod, approved by li)";
            says(&closed(state, "192.0.2.0/24", 22, 5), false, &[says_so, name]);
        }
        let other = "no grant covers it; grant ";
        says(&closed(State::Active, "192.0.2.8", 22, 0), false, &[other, "is for 192.0.2.8, not"]);
        says(&closed(State::Active, "192.0.2.7", 23, 0), false, &[other, "to 23/tcp only"]);
        says(&closed(State::Revoked, "192.0.2.8", 22, 0), false, &["(ended) is for 192.0.2.8"]);
        // Ended grants of others for other sources explain nothing.
        let ended = closed(State::Revoked, "192.0.2.8", 22, 0);
        assert!(explained(&ended, None).sentence.ends_with("no grant covers it"));
    }

    #[test]
    fn what_no_grant_can_open_is_not_asked_for() {
        let closed = answer(false, Vec::new());
        let ask = explained(&closed, Some("o'neil")).ask.unwrap();
        let expected = "jitctl grant --signing-key KEY --host 'web 1' --source 192.0.2.7 --port 22 \
                        --for 1h --requester 'o'\\''neil' --why 'TEXT'";
        assert_eq!(ask, expected);
        let two = v1::Port { approvals: 2, ..v1::Port::default() };
        let two = explained(&v1::WhyResponse { port: Some(two), ..closed.clone() }, None);
        let keys = "jitctl grant --signing-key KEY1 --signing-key KEY2 --host ";
        assert!(two.ask.unwrap().starts_with(keys));
        assert!(two.more.iter().any(|text| text.starts_with("22/tcp needs 2 approvals")));
        let outside = v1::WhyResponse { not_grantable: "only 10.0.0.0/8".into(), ..closed.clone() };
        says(&outside, false, &["no grant can let this source in: only 10.0.0.0/8"]);
        assert_eq!(explained(&outside, None).ask, None);
        let mut bad = closed;
        bad.interfaces[0].gate = Some(v1::WhyVerdict { open: false, reason: "bad_source".into() });
        says(&bad, false, &["the packet itself is refused (bad_source)"]);
        assert_eq!(explained(&bad, None).ask, None);
    }

    #[test]
    fn the_entry_that_lets_in_is_named() {
        let source: SourcePrefix = "192.0.2.0/24".parse().unwrap();
        let entry = v1::WhyEntry {
            source: Some((&source).into()),
            left_ms: 3_600_000,
            grant_id: vec![1; 16].into(),
            ..v1::WhyEntry::default()
        };
        let mut open = answer(true, vec![grant(State::Active, "192.0.2.0/24", 22, 0)]);
        open.entries = vec![entry.clone()];
        says(&open, true, &["of ana", "lets it in, for 192.0.2.0/24, 1h left"]);
        // One that is used up is passed over; one without an end is an exemption.
        let used = v1::WhyEntry { max_connections: 2, hits: 2, ..entry.clone() };
        let exempt = v1::WhyEntry { exempt: true, forever: true, left_ms: 0, ..entry };
        open.entries = vec![used, exempt];
        says(&open, true, &["an exemption for 192.0.2.0/24 lets it in, no end"]);
    }

    #[test]
    fn open_without_a_grant_has_its_reason() {
        let way = |gate, guard, open| v1::WhyInterface {
            name: "eth9".into(),
            hook: "none".into(),
            gate,
            guard,
            open,
            note: String::new(),
        };
        let mut none = answer(false, Vec::new());
        none.interfaces.push(way(None, None, true));
        says(&none, true, &["eth9 has no gate (none), and no socket guard stops it"]);
        assert!(explained(&none, None).more.contains(&"it is closed by eth0".into()));
        let free = v1::WhyResponse { port: None, ..answer(true, Vec::new()) };
        says(&free, true, &["22/tcp is not protected"]);
        let observed = Some(v1::WhyVerdict { open: true, reason: "denied".into() });
        let mut watched = answer(true, Vec::new());
        watched.interfaces[0].gate = observed;
        says(&watched, true, &["observe mode lets it pass"]);
        let own = v1::WhyResponse { own: true, ..answer(false, Vec::new()) };
        says(&own, true, &["an address of this host"]);
        let dead = v1::WhyResponse { from_tables: true, ..v1::WhyResponse::default() };
        says(&dead, true, &["no program is in the kernel"]);
    }
}
