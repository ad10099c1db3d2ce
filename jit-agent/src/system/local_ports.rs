//! The ports that the kernel gives to this host's own sockets (`ip_local_port_range`, see ip(7)),
//! and the protected ports among them: answers to such a socket come to a protected port.

use std::{fs, io, ops::RangeInclusive};

use jit_common::Protocol;
use jit_proto::PortRange;

/// Of the network namespace of this process.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The range, and the ports in it that the kernel gives to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPorts {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

impl LocalPorts {
    /// As the kernel has them now.
    pub fn read() -> io::Result<Self> {
        let read = |path: &str| {
            fs::read_to_string(path).map_err(|error| {
                io::Error::new(error.kind(), format!("cannot read {path}: {error}"))
            })
        };
        let (range, reserved) = (read(RANGE)?, read(RESERVED)?);
        Self::parse(&range, &reserved)
            .ok_or_else(|| io::Error::other(format!("{RANGE} or {RESERVED} is not understood")))
    }

    fn parse(range: &str, reserved: &str) -> Option<Self> {
        let mut ends = range.split_whitespace().map(str::parse);
        let (Some(Ok(first)), Some(Ok(last)), None) = (ends.next(), ends.next(), ends.next())
        else {
            return None;
        };
        let part = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        };
        let parts = reserved.trim().split(',').filter(|text| !text.is_empty());
        Some(Self { range: first..=last, reserved: parts.map(part).collect::<Option<_>>()? })
    }

    /// A sentence for each of these protected ranges with ports that the kernel may give away.
    pub fn warnings(&self, protected: impl IntoIterator<Item = PortRange>) -> Vec<String> {
        protected.into_iter().filter_map(|range| self.warning(range)).collect()
    }

    fn warning(&self, protected: PortRange) -> Option<String> {
        let PortRange { protocol, first, last } = protected;
        let given = |port: &u16| {
            self.range.contains(port) && !self.reserved.iter().any(|range| range.contains(port))
        };
        let mut ports = (first..=last).filter(given);
        let lowest = ports.next()?;
        let missing = lowest..=ports.next_back().unwrap_or(lowest);
        // What is written there replaces what was there.
        let reserved: Vec<_> = self.reserved.iter().chain([&missing]).map(text).collect();
        let lost = match protocol {
            Protocol::Tcp => "",
            Protocol::Udp => ", which lets them in only for a connected socket and in `drain`",
        };
        Some(format!(
            "{protected} is inside net.ipv4.ip_local_port_range ({}): the host's own sockets may \
             get it as source port, and the answers to them come to a protected port{lost}; \
             reserve it: sysctl -w net.ipv4.ip_local_reserved_ports={}",
            text(&self.range),
            reserved.join(",")
        ))
    }
}

fn text(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(range: &str, reserved: &str, protected: &[&str]) -> Vec<String> {
        let ports = LocalPorts::parse(range, reserved).unwrap();
        ports.warnings(protected.iter().map(|range| range.parse().unwrap()))
    }

    #[test]
    fn a_protected_port_that_the_kernel_may_give_away_is_named_with_the_cure() {
        assert_eq!(
            warnings("32768\t60999\n", "8080,9000-9010\n", &["22", "40000"]),
            ["40000/tcp is inside net.ipv4.ip_local_port_range (32768-60999): the host's own \
                 sockets may get it as source port, and the answers to them come to a protected \
                 port; reserve it: sysctl -w \
                 net.ipv4.ip_local_reserved_ports=8080,9000-9010,40000"]
        );
        let udp = warnings("32768 60999", "\n", &["51820/udp"]);
        assert!(udp.len() == 1 && udp[0].contains("connected socket"), "{udp:?}");
        assert!(udp[0].ends_with("ip_local_reserved_ports=51820"), "{udp:?}");
    }

    #[test]
    fn a_reserved_port_and_one_outside_the_range_need_no_word() {
        for reserved in ["40000", "39000-41000", "1,40000,5"] {
            assert!(warnings("32768 60999", reserved, &["40000", "22", "123/udp"]).is_empty());
        }
        let partly = warnings("32768 60999", "40000", &["39999-40002"]);
        assert!(partly[0].ends_with("=40000,39999-40002"), "{partly:?}");
    }

    #[test]
    fn the_kernels_own_texts_are_understood_and_others_are_not() {
        assert!(LocalPorts::read().is_ok());
        for (range, reserved) in
            [("1", ""), ("1 2 3", ""), ("a b", ""), ("1 2", "x"), ("1 2", "1-")]
        {
            assert_eq!(LocalPorts::parse(range, reserved), None, "{range} {reserved}");
        }
    }
}
