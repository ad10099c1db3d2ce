//! Builds frames layer by layer from readable parts. Lengths and checksums are as a real sender
//! writes them, unless a test sets others.
//!
//! It only builds bytes: nothing here sends, receives or decides. This file is a table of contents.

mod bytes;
mod echo;
mod ipv4;
mod ipv6;
mod packet;
mod transport;

pub use bytes::{checksum, transport_checksum};
pub use echo::{ICMP, ICMPV6, echo_request};
pub use ipv4::Ipv4;
pub use ipv6::{Extension, Ipv6};
pub use packet::{ARP, IPV4, IPV6, Macs, Packet, QINQ, VLAN};
pub use transport::{Tcp, Udp, flag};
