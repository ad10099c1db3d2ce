//! Echo requests.

use std::net::IpAddr;

use super::{
    bytes::{checksum, transport_checksum},
    ipv4::Ipv4,
    ipv6::Ipv6,
    packet::Packet,
};

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// An ICMP or ICMPv6 echo request with 56 bytes of data, by the family of the addresses.
pub fn echo_request(source: IpAddr, destination: IpAddr) -> Packet {
    let mut bytes = vec![8, 0, 0, 0, 0, 1, 0, 1];
    bytes.resize(64, 0x55);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let sum = checksum(&[&bytes]);
            bytes.splice(2..4, sum.to_be_bytes());
            Ipv4::new(source, destination).carry(ICMP, &bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6::new(source, destination);
            bytes.splice(0..1, [128]);
            let sum = transport_checksum(ip.source(), ip.destination(), ICMPV6, &bytes);
            bytes.splice(2..4, sum.to_be_bytes());
            ip.carry(ICMPV6, &bytes)
        }
        _ => panic!("two families: {source} and {destination}"),
    }
}
