//! Ethernet: VLAN tags, other ethertypes, frames that end early.

use jit_common::Reason;
use jit_tests::frames::{ARP, IPV4, IPV6, Packet, QINQ, Tcp, VLAN};

use super::{Case, always, both, opens};
use crate::fixture::Ip;

/// Tag protocol identifier and VLAN id, outermost first.
type Tags = &'static [(u16, u16)];

pub(super) fn cases() -> Vec<Case> {
    [tags(), too_deep(), others(), cut()].into_iter().flatten().collect()
}

fn tags() -> Vec<Case> {
    let rows: [(&str, &str, Tags); 9] = [
        ("VLAN id 0", "IEEE 802.1Q: priority tag, stripped by Linux", &[(VLAN, 0)]),
        ("VLAN id 0 twice", "evasion: Linux strips both", &[(VLAN, 0), (VLAN, 0)]),
        ("VLAN id 7", "IEEE 802.1Q", &[(VLAN, 7)]),
        ("VLAN id 0 with priority", "IEEE 802.1Q: PCP 7 and DEI", &[(VLAN, 0xf000)]),
        ("802.1ad tag", "IEEE 802.1ad", &[(QINQ, 0)]),
        ("802.1ad and 802.1Q", "IEEE 802.1ad: service and customer tag", &[(QINQ, 5), (VLAN, 7)]),
        ("802.1Q and 802.1ad", "evasion: the wrong way round", &[(VLAN, 0), (QINQ, 0)]),
        ("three tags", "evasion: a third tag", &[(VLAN, 0); 3]),
        ("four tags", "the most that is stripped", &[(QINQ, 0), (VLAN, 0), (QINQ, 0), (VLAN, 0)]),
    ];
    rows.into_iter()
        .flat_map(|(name, why, tags)| {
            both(move |ip| opens(name, why, move |port| ip.tcp(&Tcp::syn(port)).tagged(tags)))
        })
        .collect()
}

fn too_deep() -> Vec<Case> {
    let rows: [(&str, Tags); 4] = [
        ("five 802.1Q tags", &[(VLAN, 0); 5]),
        ("five 802.1ad tags", &[(QINQ, 0); 5]),
        ("five mixed tags", &[(QINQ, 0), (VLAN, 0), (VLAN, 0), (VLAN, 0), (QINQ, 0)]),
        ("nine tags", &[(VLAN, 0); 9]),
    ];
    rows.into_iter()
        .flat_map(|(name, tags)| {
            both(move |ip| {
                always(name, "evasion: a tag too many", Reason::VlanDepth, move |port| {
                    ip.tcp(&Tcp::syn(port)).tagged(tags)
                })
            })
        })
        .collect()
}

fn others() -> Vec<Case> {
    let arp =
        [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 198, 51, 100, 1];
    let other = |name, why, ethertype: u16| {
        always(name, why, Reason::NotIp, move |port| {
            let inner = Ip::V4.tcp(&Tcp::syn(port)).bytes;
            Packet::new(ethertype, inner).frame()
        })
    };
    vec![
        always("ARP request", "RFC 826", Reason::NotIp, move |_| Packet::new(ARP, arp).frame()),
        always("ARP request with VLAN id 0", "RFC 826", Reason::NotIp, move |_| {
            Packet::new(ARP, arp).tagged(&[(VLAN, 0)])
        }),
        always("ARP after four tags", "the most that is stripped", Reason::NotIp, move |_| {
            Packet::new(ARP, arp).tagged(&[(VLAN, 0); 4])
        }),
        other("LLDP", "IEEE 802.1AB", 0x88cc),
        other("EAPOL", "IEEE 802.1X", 0x888e),
        other("MPLS", "RFC 3032: Linux strips it only into another path", 0x8847),
        other("PPPoE session", "RFC 2516: the inner packet comes in on another device", 0x8864),
        other("tag 0x9100", "not a tag to Linux", 0x9100),
        other("LLC", "IEEE 802.3: a length, not a type", 0x002a),
        other("ethertype 0", "a length of nothing", 0),
        other("ethertype 0xffff", "reserved", 0xffff),
    ]
}

fn cut() -> Vec<Case> {
    let malformed =
        |name, why, frame: fn(u16) -> Vec<u8>| always(name, why, Reason::Malformed, frame);
    vec![
        malformed("empty frame", "no Ethernet header", |_| Vec::new()),
        malformed("13 bytes", "no whole Ethernet header", |_| vec![0; 13]),
        malformed("nothing after the ethertype of IPv4", "no IPv4 header", |_| {
            Packet::new(IPV4, []).frame()
        }),
        malformed("nothing after the ethertype of IPv6", "no IPv6 header", |_| {
            Packet::new(IPV6, []).frame()
        }),
        malformed("ends inside a tag", "IEEE 802.1Q: four bytes", |_| {
            Packet::new(VLAN, [0, 0, 8]).frame()
        }),
        malformed("ends inside the fourth tag", "IEEE 802.1Q: four bytes", |_| {
            Packet::new(VLAN, [0, 0]).tagged(&[(VLAN, 0); 3])
        }),
        malformed("tag in front of nothing", "no IPv4 header", |_| {
            Packet::new(IPV4, []).tagged(&[(VLAN, 0)])
        }),
        malformed("IPv6 under the ethertype of IPv4", "evasion: wrong version", |port| {
            Packet::new(IPV4, Ip::V6.tcp(&Tcp::syn(port)).bytes).frame()
        }),
        malformed("IPv4 under the ethertype of IPv6", "evasion: wrong version", |port| {
            Packet::new(IPV6, Ip::V4.tcp(&Tcp::syn(port)).bytes).frame()
        }),
    ]
}
