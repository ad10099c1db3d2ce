//! The frame table: each frame, where it comes from (a specification's section or a known way
//! around filters), and its reason without a grant, with one, and at an unprotected port.

pub(crate) mod found;
mod ipv4;
mod ipv6;
mod link;
mod tcp;
mod udp;

use jit_common::Reason;

use crate::fixture::Ip;

/// One frame of the table, as a function of the destination port.
pub(crate) struct Case {
    pub(crate) name: String,
    /// A specification's section, or the evasion that it tries.
    pub(crate) why: &'static str,
    /// To a protected port from a source without a grant.
    pub(crate) closed: Reason,
    /// To a protected port from a source with a live grant.
    pub(crate) granted: Reason,
    /// To a port that is not protected.
    pub(crate) unprotected: Reason,
    /// The Ethernet frame to this port.
    pub(crate) frame: Box<dyn Fn(u16) -> Vec<u8>>,
}

/// All cases.
pub(crate) fn all() -> Vec<Case> {
    [tcp::cases(), ipv4::cases(), ipv6::cases(), link::cases(), udp::cases(), found::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// A frame that would open a connection (or a datagram).
fn opens(
    name: impl Into<String>,
    why: &'static str,
    frame: impl Fn(u16) -> Vec<u8> + 'static,
) -> Case {
    three(name, why, [Reason::Denied, Reason::Granted, Reason::Unprotected], frame)
}

/// A segment that opens nothing and belongs to no session.
fn bare(
    name: impl Into<String>,
    why: &'static str,
    frame: impl Fn(u16) -> Vec<u8> + 'static,
) -> Case {
    three(name, why, [Reason::NoSession, Reason::Granted, Reason::Unprotected], frame)
}

/// A frame whose port is not reached or does not matter: the same with and without a grant.
fn always(
    name: impl Into<String>,
    why: &'static str,
    reason: Reason,
    frame: impl Fn(u16) -> Vec<u8> + 'static,
) -> Case {
    three(name, why, [reason; 3], frame)
}

/// Reasons without a grant, with one, and at an unprotected port.
fn three(
    name: impl Into<String>,
    why: &'static str,
    [closed, granted, unprotected]: [Reason; 3],
    frame: impl Fn(u16) -> Vec<u8> + 'static,
) -> Case {
    Case { name: name.into(), why, closed, granted, unprotected, frame: Box::new(frame) }
}

/// The case over IPv4 and over IPv6.
fn both(case: impl Fn(Ip) -> Case) -> Vec<Case> {
    Ip::BOTH
        .into_iter()
        .map(|ip| {
            let case = case(ip);
            Case { name: format!("{} over {ip:?}", case.name), ..case }
        })
        .collect()
}
