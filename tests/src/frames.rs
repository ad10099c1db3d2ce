//! Frames, built layer by layer from readable parts, with lengths and checksums as a real sender
//! would write them unless a test says otherwise.
//!
//! It builds bytes only: nothing here sends, receives or decides. A table of contents.

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
