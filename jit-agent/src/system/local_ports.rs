//! The ports that the kernel gives to this host's own sockets (`ip_local_port_range`, see ip(7)),
//! and the protected ports among them: answers to such a socket come to a protected port.

use std::{fs, io, ops::RangeInclusive};

use jit_common::Protocol;
use jit_proto::{PortRange, PortSection, Sessions};

/// Of the network namespace of this process.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The range, and the ports in it that the kernel gives to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPorts {
    range: RangeInclusive<u16>,
    reserved: Vec<RangeInclusive<u16>>,
}

/// Protected ports that the kernel may give to this host's own sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPort {
    /// The ports of the section.
    pub range: PortRange,
    /// What comes of it, as a sentence without a full stop.
    pub what: String,
    /// The value of `net.ipv4.ip_local_reserved_ports` that ends it, for all sections.
    pub reserved: String,
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
        Self::of(&range, &reserved)
            .ok_or_else(|| io::Error::other(format!("{RANGE} or {RESERVED} is not understood")))
    }

    /// From the texts of both settings.
    pub fn of(range: &str, reserved: &str) -> Option<Self> {
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

    /// A sentence for each of these sections with ports that the kernel may give away.
    pub fn warnings(&self, sections: &[PortSection]) -> Vec<String> {
        let warning = |ClientPort { what, reserved, .. }| {
            format!("{what}; reserve it: sysctl -w net.ipv4.ip_local_reserved_ports={reserved}")
        };
        self.client_ports(sections).into_iter().map(warning).collect()
    }

    /// Each of these sections with ports that the kernel may give away. Each has the same setting:
    /// what is written there replaces what was there.
    pub fn client_ports(&self, sections: &[PortSection]) -> Vec<ClientPort> {
        let given = sections.iter().filter_map(|section| Some((section, self.given(section)?)));
        let given: Vec<_> = given.collect();
        let mut reserved: Vec<_> = self.reserved.iter().map(text).collect();
        for (_, ports) in &given {
            let ports = text(ports);
            if !reserved.contains(&ports) {
                reserved.push(ports);
            }
        }
        let (all, reserved) = (text(&self.range), reserved.join(","));
        let what = |section: &PortSection| {
            format!(
                "{} is inside net.ipv4.ip_local_port_range ({all}): the host's own sockets may get \
                 it as source port, and the answers to them come to a protected port{}",
                section.range,
                lost(section)
            )
        };
        let ports = given.iter().map(|(section, _)| ClientPort {
            range: section.range,
            what: what(section),
            reserved: reserved.clone(),
        });
        ports.collect()
    }

    /// The section's ports that the kernel may give away, from the first to the last.
    fn given(&self, section: &PortSection) -> Option<RangeInclusive<u16>> {
        let PortRange { first, last, .. } = section.range;
        let given = |port: &u16| {
            self.range.contains(port) && !self.reserved.iter().any(|range| range.contains(port))
        };
        let mut ports = (first..=last).filter(given);
        let lowest = ports.next()?;
        Some(lowest..=ports.next_back().unwrap_or(lowest))
    }
}

/// Which answers the gate drops there, as the end of a sentence.
fn lost(section: &PortSection) -> &'static str {
    match (section.range.protocol, section.sessions) {
        (Protocol::Tcp, _) => "",
        (Protocol::Udp, Sessions::Drain) if !section.forwarded => {
            ", which drops them unless their socket is connected"
        }
        (Protocol::Udp, _) => ", which drops them",
    }
}

fn text(range: &RangeInclusive<u16>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use jit_proto::port_section::TomlSection;

    use super::*;

    fn section(range: &str, keys: &str) -> PortSection {
        let (port, protocol) = range.split_once('/').unwrap_or((range, "tcp"));
        let text =
            format!("port = \"{port}\"\nprotocol = \"{protocol}\"\nsources = [\"::/0\"]\n{keys}");
        toml::from_str::<TomlSection>(&text).unwrap().check(1).unwrap()
    }

    fn warnings(range: &str, reserved: &str, protected: &[&str]) -> Vec<String> {
        let ports = LocalPorts::of(range, reserved).unwrap();
        let sections: Vec<_> = protected.iter().map(|range| section(range, "")).collect();
        ports.warnings(&sections)
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
    }

    /// So that whoever pastes both has both.
    #[test]
    fn each_command_reserves_the_ports_of_all_sections() {
        let both = warnings("32768 60999", "8080", &["40000", "22", "51820/udp", "40000/udp"]);
        assert_eq!(both.len(), 3);
        for warning in both {
            assert!(warning.ends_with("ip_local_reserved_ports=8080,40000,51820"), "{warning}");
        }
    }

    #[test]
    fn which_answers_to_the_hosts_own_datagrams_are_dropped_is_said() {
        let ports = LocalPorts::of("32768 60999", "\n").unwrap();
        for (keys, lost) in [
            ("sessions = \"cut\"", ", which drops them; "),
            ("sessions = \"drain\"", ", which drops them unless their socket is connected; "),
            ("terminates = \"forwarded\"", ", which drops them; "),
        ] {
            let warnings = ports.warnings(&[section("51820/udp", keys)]);
            let [warning] = warnings.as_slice() else { panic!("{keys}: {warnings:?}") };
            assert!(warning.contains(lost), "{keys}: {warning}");
            assert!(warning.ends_with("ip_local_reserved_ports=51820"), "{warning}");
        }
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
            assert_eq!(LocalPorts::of(range, reserved), None, "{range} {reserved}");
        }
    }
}
