//! UDP: every datagram is decided by itself, because there is no SYN.

use jit_common::{Protocol, Reason};
use jit_tests::frames::{Extension, Ipv4, Udp};

use super::{Case, always, both, opens};
use crate::fixture::{v4, v6};

const UDP: u8 = Protocol::Udp as u8;

pub(super) fn cases() -> Vec<Case> {
    [datagrams(), services(), cut(), fragments()].into_iter().flatten().collect()
}

fn datagrams() -> Vec<Case> {
    let datagram = |name, why, make: fn(u16) -> Udp| {
        both(move |ip| opens(name, why, move |port| ip.udp(&make(port)).frame()))
    };
    let mut cases = [
        datagram("datagram", "RFC 768", Udp::to),
        datagram("empty datagram", "RFC 768: length 8", |port| Udp::to(port).payload(b"")),
        datagram("datagram from port 53", "evasion: looks like an answer", |port| {
            Udp::to(port).from_port(53)
        }),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    cases.push(opens("datagram after options of both kinds", "RFC 8200 section 4.1", |port| {
        let chain = [Extension::hop_by_hop(), Extension::destination()];
        v6().chain(&chain).udp(&Udp::to(port)).frame()
    }));
    cases.push(opens("datagram after IPv4 options", "RFC 791 section 3.1", |port| {
        v4().options(&[1; 40]).udp(&Udp::to(port)).frame()
    }));
    cases
}

/// Datagrams to ports of their own, which no gate may touch.
fn services() -> Vec<Case> {
    let rows: [(&str, &str, u16, u16); 6] = [
        ("DHCP answer", "RFC 2131 section 4.1", 67, 68),
        ("DHCPv6 answer", "RFC 8415 section 7.2", 547, 546),
        ("DNS answer", "RFC 1035 section 4.2.1", 53, 40_000),
        ("NTP answer", "RFC 5905 section 7.2", 123, 123),
        ("VXLAN", "RFC 7348: the inner frame comes in on another device", 50_000, 4789),
        ("IKE", "RFC 7296 section 2", 500, 500),
    ];
    rows.into_iter()
        .flat_map(|(name, why, from, to)| {
            both(move |ip| {
                always(name, why, Reason::Unprotected, move |_| {
                    ip.udp(&Udp::to(to).from_port(from)).frame()
                })
            })
        })
        .collect()
}

fn cut() -> Vec<Case> {
    let mut cases = Vec::new();
    for bytes in [0, 2, 7] {
        cases.extend(both(move |ip| {
            let name = format!("frame cut after {bytes} bytes of UDP");
            always(name, "evasion: port not in the frame", Reason::Malformed, move |port| {
                ip.udp(&Udp::to(port)).cut(ip.bytes() + bytes).frame()
            })
        }));
    }
    cases.push(always(
        "total length inside the UDP header",
        "RFC 768: 8 bytes of header",
        Reason::Malformed,
        |port| v4().total(27).udp(&Udp::to(port)).frame(),
    ));
    cases.push(always(
        "payload length inside the UDP header",
        "RFC 768: 8 bytes of header",
        Reason::Malformed,
        |port| v6().length(7).udp(&Udp::to(port)).frame(),
    ));
    cases
}

fn fragments() -> Vec<Case> {
    vec![
        opens("first IPv4 fragment of a datagram", "RFC 791 section 3.2", |port| {
            v4().fragment(Ipv4::MF).udp(&Udp::to(port).payload(&[0; 1472])).frame()
        }),
        always(
            "IPv4 fragment at 8 of a datagram",
            "collateral: later fragments of DNS, NFS, IPsec",
            Reason::LaterFragment,
            |_| v4().fragment(1).carry(UDP, &[0; 8]).frame(),
        ),
        always(
            "IPv4 fragment at 1480 of a datagram",
            "collateral: later fragments of DNS, NFS, IPsec",
            Reason::LaterFragment,
            |_| v4().fragment(Ipv4::MF | 185).carry(UDP, &[0; 1480]).frame(),
        ),
        opens("first IPv6 fragment of a datagram", "RFC 8200 section 4.5", |port| {
            v6().chain(&[Extension::fragment(0, true)])
                .udp(&Udp::to(port).payload(&[0; 1448]))
                .frame()
        }),
        always(
            "IPv6 fragment at 8 of a datagram",
            "collateral: later fragments of DNS, NFS, IPsec",
            Reason::LaterFragment,
            |_| v6().chain(&[Extension::fragment(8, false)]).carry(UDP, &[0; 8]).frame(),
        ),
        always(
            "IPv6 fragment at 1448 of a datagram",
            "collateral: later fragments of DNS, NFS, IPsec",
            Reason::LaterFragment,
            |_| v6().chain(&[Extension::fragment(1448, true)]).carry(UDP, &[0; 1448]).frame(),
        ),
    ]
}
