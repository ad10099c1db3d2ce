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
        let bad = || {
            let lower = text.trim().to_lowercase();
            let meant = match text.split_once([',', ' ', ';']) {
                Some(_) => format!("; write {}", listed(text)),
                None if lower != text && lower.parse::<Self>().is_ok() => {
                    format!("; write {lower:?}")
                }
                None => String::new(),
            };
            format!("`{text}` is not a port such as 22, 22/tcp, 5985-5986/tcp or 3478/udp{meant}")
        };
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

/// The parts of a text that is meant as a list: `"22", "3389"`.
pub(crate) fn listed(text: &str) -> String {
    let parts = text.split([',', ' ', ';']).filter(|part| !part.is_empty());
    parts.map(|part| format!("{part:?}")).collect::<Vec<_>>().join(", ")
}

/// What was most likely meant by the value of `port`, as the end of a sentence; empty if that is not
/// known.
pub(crate) fn port_meant(text: &str) -> String {
    let text = text.trim();
    let is_port = |text: &str| text.trim().parse::<u16>().is_ok_and(|port| port > 0);
    let two = |at: &str| text.split_once(at).filter(|(one, other)| is_port(one) && is_port(other));
    if let Some((port, protocol)) = text.split_once('/') {
        let protocol = protocol.to_lowercase();
        let known = matches!(&*protocol, "tcp" | "udp") && port.parse::<u16>().is_ok();
        return if known {
            format!("; write port = {port} and protocol = {protocol:?}")
        } else {
            String::new()
        };
    }
    if let Some((first, last)) = two(":").or_else(|| two("..")).or_else(|| two("\u{2013}")) {
        return format!("; write \"{}-{}\"", first.trim(), last.trim());
    }
    if text.contains([',', ';', ' ']) {
        let all = listed(text).replace('"', "");
        return format!("; write a [[port]] section for each of {all}");
    }
    match (text.strip_suffix('-'), text.strip_prefix('-')) {
        (Some(port), _) if is_port(port) => {
            format!("; write {port} for this port alone, \"{port}-65535\" for all from it on")
        }
        (_, Some(port)) if is_port(port) => {
            format!("; write {port} for this port alone, \"1-{port}\" for all up to it")
        }
        _ => String::new(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_spelled_otherwise_is_named_as_it_is_written() {
        for (typed, says) in [
            ("22-", "write 22 for this port alone"),
            ("-22", "\"1-22\" for all up to it"),
            ("22,3389", "a [[port]] section for each of 22, 3389"),
            ("22 3389", "a [[port]] section for each of 22, 3389"),
            ("22:80", "write \"22-80\""),
            ("22/TCP", "write port = 22 and protocol = \"tcp\""),
        ] {
            assert!(port_meant(typed).contains(says), "{typed}: {}", port_meant(typed));
        }
        for typed in ["ssh", "", "-", "22/sctp", "0-", "70000-"] {
            assert_eq!(port_meant(typed), "", "{typed}");
        }
    }

    #[test]
    fn a_range_that_is_spelled_otherwise_is_named_as_it_is_written() {
        for (typed, says) in
            [("22/TCP", "; write \"22/tcp\""), ("22, 3389/tcp", "; write \"22\", \"3389/tcp\"")]
        {
            let error = typed.parse::<PortRange>().unwrap_err();
            assert!(error.ends_with(says), "{typed}: {error}");
        }
    }
}
