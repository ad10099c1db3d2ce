//! Ports and sources that no rule distinguishes.
//!
//! A range of ports is cut where a rule compares with a number, a prefix where a rule names a smaller
//! one in it. So a rule that forbids 3389 meets a request for 1-65535, and one that forbids 10.1.0.0/16
//! a request from 10.0.0.0/8, and each such piece is judged once.

use std::collections::{BTreeMap, BTreeSet};

use jit_common::{Family, Protocol};
use jit_proto::{PortRange, SourcePrefix};

use super::reach::Reach;

/// Ports that are judged alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) protocol: Protocol,
    /// One of them, which is judged for all.
    pub(super) port: u16,
    /// All of them that are asked for.
    pub(super) ranges: Vec<PortRange>,
}

/// Sources that are judged alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources {
    /// One of them, which is judged for all.
    pub(super) source: SourcePrefix,
    /// Prefix length of what was asked for.
    pub(super) length: u8,
    /// All of them.
    pub(super) all: Vec<SourcePrefix>,
}

/// The ports of a request, in pieces.
pub(super) fn ports(asked: &[PortRange], reach: &Reach) -> Vec<Ports> {
    // A number N cuts into: below N, N, above N.
    let literals = reach.ports.iter().filter_map(|number| u16::try_from(*number).ok());
    let cuts: BTreeSet<u16> =
        literals.flat_map(|number| [Some(number), number.checked_add(1)]).flatten().collect();
    let mut pieces: BTreeMap<(bool, usize), Vec<PortRange>> = BTreeMap::new();
    for range in asked {
        let mut first = range.first;
        loop {
            let next = cuts.range(first.saturating_add(1)..).next().copied();
            let last = next.map_or(range.last, |next| range.last.min(next.saturating_sub(1)));
            let last = last.max(first);
            let piece = PortRange { protocol: range.protocol, first, last };
            let place = cuts.range(..=first).count();
            pieces.entry((range.protocol == Protocol::Udp, place)).or_default().push(piece);
            if last >= range.last {
                break;
            }
            first = last.saturating_add(1);
        }
    }
    let one = |ranges: Vec<PortRange>| {
        let PortRange { protocol, first, .. } = *ranges.first()?;
        Some(Ports { protocol, port: first, ranges })
    };
    pieces.into_values().filter_map(one).collect()
}

/// The sources of a request, in pieces.
pub(super) fn sources(asked: &[SourcePrefix], reach: &Reach) -> Vec<Sources> {
    let literals: BTreeSet<_> = reach.prefixes.iter().copied().chain(special()).collect();
    type Signature = (bool, u8, Vec<(bool, bool)>);
    let mut pieces: BTreeMap<Signature, BTreeSet<SourcePrefix>> = BTreeMap::new();
    for source in asked {
        let smaller =
            literals.iter().filter(|literal| source.contains(literal) && *literal != source);
        for piece in smaller.chain([source]) {
            let compare = |literal: &SourcePrefix| (literal.contains(piece), literal == piece);
            let signature = (
                piece.address().family == Family::V6,
                source.length(),
                literals.iter().map(compare).collect(),
            );
            pieces.entry(signature).or_default().insert(*piece);
        }
    }
    let one = |((_, length, _), all): (Signature, BTreeSet<SourcePrefix>)| {
        Some(Sources { source: *all.first()?, length, all: all.into_iter().collect() })
    };
    pieces.into_iter().filter_map(one).collect()
}

/// What Cedar's `isLoopback` and `isMulticast` mean.
fn special() -> impl Iterator<Item = SourcePrefix> {
    ["127.0.0.0/8", "224.0.0.0/4", "::1/128", "ff00::/8"]
        .into_iter()
        .filter_map(|text| text.parse().ok())
}
