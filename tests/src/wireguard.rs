//! Sets keys and peer of a WireGuard device by generic netlink, as `wg set` does
//! (`linux/wireguard.h`). The test machines have the device but not the tool.

use std::net::SocketAddrV4;

use crate::{
    genetlink::{Conversation, NESTED, attribute},
    netns::Namespace,
};

const WG_CMD_SET_DEVICE: u8 = 1;
const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_PEERS: u16 = 8 | NESTED;
const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_ALLOWEDIPS: u16 = 9 | NESTED;
const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;

/// A pair of keys. They are public: only for tests.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    private: [u8; 32],
    /// X25519 of the private key and the base point (RFC 7748 section 6.1).
    public: [u8; 32],
}

/// One pair for each end.
pub const PAIRS: [Pair; 2] = [
    Pair {
        private: [1; 32],
        public: [
            0xa4, 0xe0, 0x92, 0x92, 0xb6, 0x51, 0xc2, 0x78, 0xb9, 0x77, 0x2c, 0x56, 0x9f, 0x5f,
            0xa9, 0xbb, 0x13, 0xd9, 0x06, 0xb4, 0x6a, 0xb6, 0x8c, 0x9d, 0xf9, 0xdc, 0x2b, 0x44,
            0x09, 0xf8, 0xa2, 0x09,
        ],
    },
    Pair {
        private: [2; 32],
        public: [
            0xce, 0x8d, 0x3a, 0xd1, 0xcc, 0xb6, 0x33, 0xec, 0x7b, 0x70, 0xc1, 0x78, 0x14, 0xa5,
            0xc7, 0x6e, 0xcd, 0x02, 0x96, 0x85, 0x05, 0x0d, 0x34, 0x47, 0x45, 0xba, 0x05, 0x87,
            0x0e, 0x58, 0x7d, 0x59,
        ],
    },
];

/// Sets a device's key and port, and its only peer at `to`. All addresses belong to that peer.
pub fn set(
    namespace: &Namespace,
    device: &str,
    own: Pair,
    port: u16,
    peer: Pair,
    to: SocketAddrV4,
) {
    let allowed = [
        (libc::AF_INET, [0; 4].as_slice()), // 0.0.0.0/0
        (libc::AF_INET6, &[0; 16]),         // ::/0
    ];
    let allowed = allowed.map(|(family, address)| {
        let family = u16::try_from(family).expect("a small number");
        let parts = [
            attribute(WGALLOWEDIP_A_FAMILY, &family.to_ne_bytes()),
            attribute(WGALLOWEDIP_A_IPADDR, address),
            attribute(WGALLOWEDIP_A_CIDR_MASK, &[0]),
        ];
        attribute(NESTED, &parts.concat())
    });
    let peer = [
        attribute(WGPEER_A_PUBLIC_KEY, &peer.public),
        attribute(WGPEER_A_ENDPOINT, &endpoint(to)),
        attribute(WGPEER_A_ALLOWEDIPS, &allowed.concat()),
    ];
    let all = [
        attribute(WGDEVICE_A_IFNAME, format!("{device}\0").as_bytes()),
        attribute(WGDEVICE_A_PRIVATE_KEY, &own.private),
        attribute(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes()),
        attribute(WGDEVICE_A_PEERS, &attribute(NESTED, &peer.concat())),
    ];
    namespace.run(|| {
        Conversation::with("wireguard").order(WG_CMD_SET_DEVICE, &all.concat());
    });
}

/// `struct sockaddr_in`.
fn endpoint(to: SocketAddrV4) -> Vec<u8> {
    let family = u16::try_from(libc::AF_INET).expect("a small number");
    let parts: [&[u8]; 4] =
        [&family.to_ne_bytes(), &to.port().to_be_bytes(), &to.ip().octets(), &[0; 8]];
    parts.concat()
}
