//! Ranges of ports, as text and on the wire.

use std::{fmt, str::FromStr};

use jit_common::{PortKey, Protocol};

use crate::v1;

/// Ports of one protocol, from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// Every port in it.
    pub fn ports(self) -> impl Iterator<Item = PortKey> {
        let Self { protocol, first, last } = self;
        (first..=last).map(move |port| PortKey { protocol, port })
    }

    /// Whether this port is in it.
    pub fn has(self, port: PortKey) -> bool {
        port.protocol == self.protocol && (self.first..=self.last).contains(&port.port)
    }

    /// The number of ports, 1 to 65535.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, first, last } = self;
        let text = if first == last {
            format!("{first}/{}", protocol.word())
        } else {
            format!("{first}-{last}/{}", protocol.word())
        };
        f.pad(&text)
    }
}

/// `22`, `22/tcp`, `5985-5986/tcp`, `3478/udp`; TCP where no protocol is named.
impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("`{text}` is not a port such as 22, 22/tcp, 5985-5986/tcp or 3478/udp");
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(bad);
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("`{text}` ends before it starts; write the lower port first"));
        }
        Ok(Self { protocol, first, last })
    }
}

impl TryFrom<&v1::PortRange> for PortRange {
    type Error = String;

    fn try_from(range: &v1::PortRange) -> Result<Self, String> {
        let protocol = match v1::Protocol::try_from(range.protocol) {
            Ok(v1::Protocol::Tcp) => Protocol::Tcp,
            Ok(v1::Protocol::Udp) => Protocol::Udp,
            Ok(v1::Protocol::Unspecified) | Err(_) => {
                return Err(format!("unknown protocol {}", range.protocol));
            }
        };
        let port = |number: u32| {
            u16::try_from(number)
                .ok()
                .filter(|port| *port > 0)
                .ok_or(format!("port {number} is not from 1 to 65535"))
        };
        let (first, last) = (port(range.first)?, port(range.last)?);
        if first > last {
            return Err(format!("range {first}-{last} ends before it starts"));
        }
        Ok(PortRange { protocol, first, last })
    }
}

impl From<PortRange> for v1::PortRange {
    fn from(range: PortRange) -> Self {
        let protocol = match range.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
        };
        Self { protocol: protocol.into(), first: range.first.into(), last: range.last.into() }
    }
}

impl From<PortKey> for v1::PortRange {
    fn from(PortKey { protocol, port }: PortKey) -> Self {
        PortRange { protocol, first: port, last: port }.into()
    }
}
