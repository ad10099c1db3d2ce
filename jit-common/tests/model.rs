//! The decision about a segment, compared with a model in every situation: four claims that are
//! missing, dead, dead at this moment or live and cut or not, every rule, with and without a
//! session, and every answer of grants with a limit.
//!
//! The model is written from the rules, not from the code: a list of claims in their order, and the
//! answer of the first that fits.

use jit_common::{
    Admission, Claim, Decision, Frame, GrantEntry, HostKey, Link, PortKey, PortRule, PrefixV4,
    PrefixV6, Reason, Segment, Session, Tables, decide,
};

const NOW: u64 = 1_000;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Slots of the four claims.
const HOST: [u32; 2] = [1, 2];
const PREFIX: [u32; 2] = [3, 4];

#[derive(Clone, Copy, Debug)]
struct Situation {
    rule: PortRule,
    host: Option<GrantEntry>,
    prefix: Option<GrantEntry>,
    session: bool,
    /// This host opened it.
    own: bool,
    /// Of the limited claim for the address, and of that for the prefix.
    admissions: [Admission; 2],
}

impl Tables for Situation {
    fn protected(&self, port: PortKey) -> bool {
        port.port == 22
    }

    fn rule(&self, _: PortKey) -> PortRule {
        self.rule
    }

    fn lately(&self) -> Option<u64> {
        None
    }

    fn host_grant(&self, _: &HostKey) -> Option<&GrantEntry> {
        self.host.as_ref()
    }

    fn prefix_grant_v4(&self, _: PrefixV4) -> Option<&GrantEntry> {
        self.prefix.as_ref()
    }

    fn prefix_grant_v6(&self, _: PrefixV6) -> Option<&GrantEntry> {
        None
    }

    fn session(&self, _: &Segment) -> Session {
        if self.session { Session::Established } else { Session::None }
    }

    fn opened_here(&self, _: &Segment) -> bool {
        assert!(self.session, "there is no session");
        self.own
    }

    fn translates_sources(&self) -> bool {
        panic!("a packet's source is the one on the wire")
    }

    fn admit_segment(&self, slot: u32, _: &Segment) -> Admission {
        let [host, prefix] = self.admissions;
        match slot {
            2 => host,
            4 => prefix,
            _ => panic!("slot {slot} has no limit"),
        }
    }

    fn admit_lookup(&self, _: u32, segment: &Segment, _: bool) -> Admission {
        panic!("a packet is no look-up: {segment:?}")
    }

    fn handshake_done(&self, slot: u32, _: &Segment) {
        assert!([2, 4].contains(&slot), "slot {slot} has no limit");
    }
}

struct Packet([u8; 40]);

impl Frame for Packet {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..)?.first_chunk().copied()
    }
}

/// IPv4 from 192.0.2.7, port 40,000, to port 22; UDP without flags.
fn packet(flags: Option<u8>) -> Packet {
    let (protocol, flags) = flags.map_or((17, 0), |flags| (6, flags));
    Packet([
        0x45, 0, 0, 40, 0, 7, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 7, 198, 51, 100, 1, //
        0x9c, 0x40, 0, 22, 0, 20, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ])
}

/// Reason, slot, and whether a new connection was let in and counted.
type Outcome = (Reason, u32, bool, bool);

fn model(situation: &Situation, flags: Option<u8>) -> Outcome {
    let Situation { rule, host, prefix, session, own, admissions } = *situation;
    let claims: Vec<(Claim, Option<Admission>)> = [(host, admissions[0]), (prefix, admissions[1])]
        .into_iter()
        .filter_map(|(entry, admission)| Some((entry?, admission)))
        .flat_map(|(entry, admission)| [(entry.unlimited, None), (entry.limited, Some(admission))])
        .collect();
    let live = || claims.iter().filter(|(claim, _)| claim.deadline > NOW);
    let opens = flags.is_some_and(|flags| flags & (SYN | ACK) == SYN);
    // A grant without a limit lets everything in.
    if let Some((claim, _)) = live().find(|(_, admission)| admission.is_none()) {
        return (Reason::Granted, claim.slot, opens || flags.is_none(), false);
    }
    // The claim that covered the source last decides whether its sessions end with it.
    let mut last = Claim::default();
    for (claim, _) in &claims {
        if claim.deadline > last.deadline {
            last = *claim;
        }
    }
    let drain = rule.drain != 0 && last.cut == 0;
    // Datagrams have no connections that could be counted, and nothing forwards their sessions.
    if flags.is_none() {
        let answer = session && rule.forwarded == 0 && drain;
        return (if answer { Reason::Established } else { Reason::Denied }, 0, false, false);
    }
    if !opens && (rule.forwarded != 0 || session) {
        if let Some((claim, _)) = live().next() {
            return (Reason::Granted, claim.slot, false, false);
        }
        let reason = match (drain, rule.forwarded != 0) {
            (false, false) if own => Reason::Established,
            (false, _) => Reason::Expired,
            (true, true) => Reason::Forwarded,
            (true, false) => Reason::Established,
        };
        return (reason, 0, false, false);
    }
    for (claim, admission) in live() {
        match admission {
            Some(Admission::Fresh) => return (Reason::Granted, claim.slot, true, true),
            Some(Admission::Known) => return (Reason::Granted, claim.slot, false, false),
            Some(Admission::Refused) | None => {}
        }
    }
    (if opens { Reason::Denied } else { Reason::NoSession }, 0, false, false)
}

/// Missing, live for a nanosecond, and long dead or dead at this moment, cut or not.
fn claims(slot: u32) -> Vec<Claim> {
    let mut claims = vec![Claim::default(), Claim::until(NOW + 1, slot)];
    for deadline in [NOW - 1, NOW] {
        for cut in [0, 1] {
            claims.push(Claim { cut, ..Claim::until(deadline, slot) });
        }
    }
    claims
}

fn entries([unlimited, limited]: [u32; 2]) -> Vec<Option<GrantEntry>> {
    let mut entries = vec![None];
    for unlimited in claims(unlimited) {
        for limited in claims(limited) {
            entries.push(Some(GrantEntry { unlimited, limited }));
        }
    }
    entries
}

#[test]
fn the_decision_is_the_models_in_every_situation() {
    let mut rules = Vec::new();
    for drain in [0, 1] {
        for forwarded in [0, 1] {
            for (session, own) in [(false, false), (true, false), (true, true)] {
                let rule = PortRule { drain, forwarded, ..PortRule::default() };
                rules.push((rule, session, own));
            }
        }
    }
    let packets = [Some(SYN), Some(ACK), None].map(|flags| (flags, packet(flags)));
    let mut reasons = std::collections::BTreeSet::new();
    let mut compared = 0_u32;
    for host in entries(HOST) {
        for prefix in entries(PREFIX) {
            for (rule, session, own) in &rules {
                for (first, second) in [
                    (Admission::Fresh, Admission::Fresh),
                    (Admission::Fresh, Admission::Refused),
                    (Admission::Known, Admission::Fresh),
                    (Admission::Known, Admission::Refused),
                    (Admission::Refused, Admission::Fresh),
                    (Admission::Refused, Admission::Known),
                    (Admission::Refused, Admission::Refused),
                ] {
                    for (flags, packet) in &packets {
                        // Only a SYN can be fresh.
                        let answer = |admission| match (admission, *flags) {
                            (Admission::Fresh, Some(ACK)) => Admission::Known,
                            _ => admission,
                        };
                        let admissions = [answer(first), answer(second)];
                        let (rule, session, own) = (*rule, *session, *own);
                        let situation = Situation { rule, host, prefix, session, own, admissions };
                        let Decision { reason, segment, slot, fresh, counted, time: _ } =
                            decide(packet, Link::of_ip(0x45), &situation, || NOW);
                        assert!(segment.is_some());
                        let expected = model(&situation, *flags);
                        let got = (reason, slot, fresh, counted);
                        assert_eq!(got, expected, "flags {flags:?} in {situation:?}");
                        reasons.insert(reason);
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 37 * 37 * 12 * 7 * 3);
    let all = [
        Reason::Denied,
        Reason::Expired,
        Reason::NoSession,
        Reason::Established,
        Reason::Forwarded,
        Reason::Granted,
    ];
    assert_eq!(reasons, all.into());
}

/// The sequence number distinguishes a SYN that is sent again from a new connection.
#[test]
fn a_segment_has_its_sequence_number_and_a_datagram_none() {
    let tables = Situation {
        rule: PortRule::default(),
        host: Some(GrantEntry::until(NOW + 1, 1)),
        prefix: None,
        session: false,
        own: false,
        admissions: [Admission::Refused; 2],
    };
    let mut syn = packet(Some(SYN));
    syn.0[24..28].copy_from_slice(&[1, 2, 3, 4]);
    let segment = decide(&syn, Link::of_ip(0x45), &tables, || NOW).segment;
    assert_eq!(segment.map(|segment| (segment.sequence, segment.opens)), Some((0x0102_0304, true)));
    let mut datagram = packet(None);
    datagram.0[24..28].copy_from_slice(&[0, 20, 3, 4]);
    let segment = decide(&datagram, Link::of_ip(0x45), &tables, || NOW).segment;
    assert_eq!(segment.map(|segment| (segment.sequence, segment.opens)), Some((0, false)));
}
