//! What `check` says of devices whose packets pass a program on another device first: bridges,
//! bonds, VLANs, macvlans, VRFs. That program does not find sessions of sockets that are bound to
//! the device above (docs/threat-model.md, section "Not promised"). Only [`warnings`] asks the
//! kernel; it needs no rights.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use jit_common::{Address, Family, PortKey};
use jit_proto::{PortRange, Sessions};

use crate::{
    config::{Config, GateConfig},
    kernel::{
        datapath::rtnetlink::{Device, Header},
        netlink::sock_diag::{DiagError, SockDiag, Socket, Wanted},
    },
    system::addresses::addresses,
};

/// The most ports and devices that are named in one sentence.
const NAMED: usize = 8;
/// What does not hold.
const LOST: &str = "on a `drain` port they stop when their grant ends, and without a grant when the \
                    agent starts";

/// Each doubt in one sentence, with what to do. `devices`: those of this network namespace.
pub(super) fn warnings(config: &Config, devices: &[Device]) -> Vec<String> {
    let ports = drained(config);
    let stacks = Stack::all(&config.gate, devices);
    if ports.is_empty() || stacks.is_empty() {
        return Vec::new();
    }
    let mut unknown = Vec::new();
    let services = services(&ports).unwrap_or_else(|error| {
        unknown.push(format!("cannot say which sockets are bound to a device: {error}"));
        Vec::new()
    });
    let link_local = link_local_names().unwrap_or_else(|error| {
        unknown.push(format!("cannot say which devices have link-local addresses: {error}"));
        BTreeSet::new()
    });
    unknown.extend(doubts(&config.gate, &stacks, &services, &link_local));
    unknown
}

/// The protected ports whose sessions may go on without a grant. Elsewhere none is lost: under a
/// grant no session is looked up, and on a `forwarded` port neither.
fn drained(config: &Config) -> Vec<PortRange> {
    let sections = config.policy.sections().iter();
    let drained = sections.filter(|one| one.sessions == Sessions::Drain && !one.forwarded);
    drained.map(|section| section.range).collect()
}

/// The sockets of these ports that are bound to a device.
fn services(ports: &[PortRange]) -> Result<Vec<Service>, DiagError> {
    let mut diag = SockDiag::open()?;
    let mut services = Vec::new();
    for PortRange { protocol, first, last } in ports.iter().copied() {
        diag.list(first..=last, Wanted::Services(protocol), |socket| {
            let Socket { port, device, listens, local, .. } = socket;
            let port = PortKey { protocol, port };
            let link_local = is_link_local(&local);
            let bound = (device != 0).then_some(Service { port, device, listens, link_local });
            services.extend(bound);
        })?;
    }
    Ok(services)
}

/// fe80::/10 (RFC 4291 section 2.5.6).
const fn is_link_local(address: &Address) -> bool {
    let [first, second, ..] = address.bytes();
    matches!(address.family, Family::V6) && first == 0xfe && second & 0xc0 == 0x80
}

/// The names of the devices that have an IPv6 link-local address.
fn link_local_names() -> io::Result<BTreeSet<String>> {
    let all = addresses()?.into_iter().filter(|one| match one.ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    });
    Ok(all.map(|one| one.interface).collect())
}

/// A socket of a protected port that is bound to a device.
struct Service {
    port: PortKey,
    /// Index of the device.
    device: u32,
    /// It waits for peers; otherwise it is a session.
    listens: bool,
    /// Its own address is link-local: then the kernel binds it, by the address's scope.
    link_local: bool,
}

/// A device, and gated ones that its packets pass first.
struct Stack<'a> {
    above: &'a Device,
    /// At least one.
    below: Vec<&'a Device>,
    /// Packets that are not for the device above come in by one below, too.
    shared: bool,
    is_vrf: bool,
}

impl<'a> Stack<'a> {
    fn all(gate: &GateConfig, devices: &'a [Device]) -> Vec<Self> {
        devices.iter().filter_map(|above| Self::of(gate, above, devices)).collect()
    }

    /// `None`: no program is below it.
    fn of(gate: &GateConfig, above: &'a Device, devices: &'a [Device]) -> Option<Self> {
        let mut below: Vec<&Device> = Vec::new();
        let mut upper = vec![above];
        // Each device is taken once, so this ends.
        while let Some(one) = upper.pop() {
            for device in devices {
                let directly =
                    device.member_of == Some(one.index) || one.child_of == Some(device.index);
                if directly && !below.iter().any(|known| known.index == device.index) {
                    below.push(device);
                    upper.push(device);
                }
            }
        }
        let gated = |device: &&Device| {
            let Device { loopback, header, name, .. } = device;
            !loopback && !matches!(header, Header::Unknown(_)) && gate.interfaces.matches(name)
        };
        below.retain(gated);
        let is_vrf = devices.iter().any(|one| one.in_vrf && one.member_of == Some(above.index));
        let shared = below.iter().any(|device| device.member_of.is_none());
        (!below.is_empty()).then_some(Self { above, below, shared, is_vrf })
    }

    fn below_text(&self) -> String {
        let names = self.below.iter().take(NAMED).map(|device| device.name.clone());
        names.chain(self.not_named()).collect::<Vec<_>>().join(", ")
    }

    fn not_named(&self) -> Option<String> {
        let more = self.below.len().saturating_sub(NAMED);
        (more > 0).then(|| format!("and {more} more"))
    }

    /// What to do, with what to paste.
    fn cure(&self, gate: &GateConfig) -> String {
        let above = &self.above.name;
        // No packet passes a program on it.
        let guard_alone = self.above.loopback;
        let (what, reason) = if guard_alone {
            ("leave it to the socket guard".to_owned(), "left to the socket guard".to_owned())
        } else {
            (format!("gate {above} alone"), format!("gated on {above}"))
        };
        let entry = |below: &&Device| format!("{{ name = {:?}, reason = {reason:?} }}", below.name);
        let entries: Vec<_> = self.below.iter().take(NAMED).map(entry).collect();
        let mut cure = format!("{what}: add to [gate] exclude: {}", entries.join(", "));
        if let Some(more) = self.not_named() {
            cure += &format!(", {more}: a glob such as \"veth*\" takes them all");
        }
        if !guard_alone && !gate.interfaces.matches(above) {
            cure += &format!(", and let [gate] interfaces take {above:?}");
        }
        if !gate.socket_guard && (guard_alone || self.shared) {
            cure += ", with socket_guard = true: without it the excluded device would be open";
        }
        cure
    }

    /// The ports of the services that are bound to it; empty: there is none.
    fn bound(&self, services: &[Service], link_local: bool) -> String {
        let mut ports: BTreeMap<PortKey, (bool, usize)> = BTreeMap::new();
        for service in services.iter().filter(|service| {
            service.device == self.above.index && (self.is_vrf || service.link_local == link_local)
        }) {
            let (listens, sessions) = ports.entry(service.port).or_default();
            *listens |= service.listens;
            *sessions += usize::from(!service.listens);
        }
        let named = ports.iter().take(NAMED).map(|(port, (listens, sessions))| {
            let PortKey { protocol, port } = port;
            let word = protocol.word();
            match (listens, sessions) {
                (true, 0) => format!("{port}/{word} (listener)"),
                (true, _) => format!("{port}/{word} (listener, sessions: {sessions})"),
                (false, _) => format!("{port}/{word} (sessions: {sessions})"),
            }
        });
        let more = ports.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("{more} more ports"));
        named.chain(more).collect::<Vec<_>>().join(", ")
    }
}

/// Decides. `link_local`: names of devices with an IPv6 link-local address.
fn doubts(
    gate: &GateConfig,
    stacks: &[Stack<'_>],
    services: &[Service],
    link_local: &BTreeSet<String>,
) -> Vec<String> {
    let mut doubts = Vec::new();
    for stack in stacks {
        let (above, below) = (&stack.above.name, stack.below_text());
        let cure = stack.cure(gate);
        let bound = stack.bound(services, false);
        if stack.is_vrf {
            let now = if bound.is_empty() { bound } else { format!(" (now: {bound})") };
            doubts.push(format!(
                "[gate] interfaces: the program on {below} does not find sessions in the VRF \
                 {above}{now}: {LOST}; {cure}"
            ));
            continue;
        }
        if !bound.is_empty() {
            doubts.push(format!(
                "bound to the device {above} (SO_BINDTODEVICE): {bound}; the program on {below}, \
                 which their packets pass first, does not find such sessions: {LOST}; bind the \
                 service to an address instead of a device, or {cure}"
            ));
        }
        if link_local.contains(above) {
            let bound = stack.bound(services, true);
            let now = if bound.is_empty() { bound } else { format!(" (now: {bound})") };
            doubts.push(format!(
                "IPv6 link-local on {above}: the kernel binds such sessions to {above}, the scope \
                 of their address{now}, and the program on {below}, which their packets pass \
                 first, does not find them: {LOST}; use other addresses, or {cure}"
            ));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use jit_common::Protocol;
    use p256::pkcs8::{EncodePublicKey as _, LineEnding};

    use super::*;

    fn member(name: &str, index: u32, of: u32) -> Device {
        Device { member_of: Some(of), ..Device::example(name, index) }
    }

    fn child(name: &str, index: u32, of: u32) -> Device {
        Device { child_of: Some(of), ..Device::example(name, index) }
    }

    fn vrf() -> [Device; 2] {
        let above = Device { loopback: true, ..Device::example("blue", 5) };
        [above, Device { in_vrf: true, ..member("eth0", 2, 5) }]
    }

    fn gate(extra: &str) -> GateConfig {
        let text = format!("[host]\nid = \"h\"\n[gate]\n{extra}");
        Config::parse(&text, std::path::Path::new("/etc/jit-agent/config.toml")).unwrap().gate
    }

    fn service(device: u32, listens: bool, link_local: bool) -> Service {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        Service { port, device, listens, link_local }
    }

    fn of(extra: &str, devices: &[Device], services: &[Service], link_local: &str) -> Vec<String> {
        let gate = gate(extra);
        let names = link_local.split_whitespace().map(str::to_owned).collect();
        doubts(&gate, &Stack::all(&gate, devices), services, &names)
    }

    #[test]
    fn a_socket_bound_above_a_gated_device_is_named_with_the_cure() {
        let services = [service(5, true, false), service(5, false, false)];
        for (devices, below) in [
            (
                vec![Device::example("top", 5), member("eth0", 2, 5), member("eth1", 3, 5)],
                "eth0, eth1",
            ),
            (vec![child("top", 5, 2), Device::example("eth0", 2)], "eth0"),
            (
                vec![child("top", 5, 4), Device::example("bond0", 4), member("eth0", 2, 4)],
                "bond0, eth0",
            ),
        ] {
            let doubts = of("", &devices, &services, "");
            let [doubt] = doubts.as_slice() else { panic!("{doubts:?}") };
            assert!(
                doubt.contains("device top (SO_BINDTODEVICE): 22/tcp (listener, sessions: 1);")
            );
            assert!(doubt.contains(&format!("the program on {below},")), "{doubt}");
            let cure = "add to [gate] exclude: { name = \"";
            assert!(doubt.contains(cure) && doubt.contains("reason = \"gated on top\""), "{doubt}");
        }
    }

    /// What is pasted ends the doubt.
    #[test]
    fn the_cure_is_a_configuration_that_raises_no_doubt() {
        let services = [service(5, true, false), service(5, false, true)];
        let bridge = vec![Device::example("br0", 5), member("eth0", 2, 5), member("eth1", 3, 5)];
        for devices in
            [bridge, vec![child("eth0.7", 5, 2), Device::example("eth0", 2)], vrf().to_vec()]
        {
            let gate = gate("");
            let cure = Stack::all(&gate, &devices)[0].cure(&gate);
            let (_, entries) = cure.split_once("add to [gate] exclude: ").unwrap();
            let pasted = format!("exclude = [{entries}]\n");
            assert_eq!(of(&pasted, &devices, &services, "br0 eth0.7"), [""; 0], "{cure}");
        }
    }

    #[test]
    fn link_local_is_in_doubt_above_a_gated_device_alone() {
        let devices = [Device::example("br0", 5), member("eth0", 2, 5), Device::example("eth1", 3)];
        let doubts = of("", &devices, &[service(5, false, true)], "br0 eth1");
        let [doubt] = doubts.as_slice() else { panic!("{doubts:?}") };
        assert!(doubt.contains("link-local on br0") && doubt.contains("scope"), "{doubt}");
        assert!(doubt.contains("(now: 22/tcp (sessions: 1))"), "{doubt}");
        assert_eq!(of("", &devices, &[], "eth1"), [""; 0]);
        assert_eq!(of("interfaces = [\"br0\"]\n", &devices, &[], "br0"), [""; 0]);
    }

    #[test]
    fn a_vrf_is_named_whatever_is_bound_to_it() {
        let doubts = of("", &vrf(), &[], "");
        let [doubt] = doubts.as_slice() else { panic!("{doubts:?}") };
        assert!(doubt.contains("program on eth0 does not find sessions in the VRF blue"));
        assert!(doubt.contains("reason = \"left to the socket guard\""), "{doubt}");
        let doubts = of("", &vrf(), &[service(5, false, false)], "eth0 blue");
        assert!(doubts.len() == 1 && doubts[0].contains("(now: 22/tcp (sessions: 1))"));
    }

    #[test]
    fn the_cure_leaves_nothing_open() {
        let of = |extra: &str, devices: &[Device]| {
            let gate = gate(extra);
            Stack::all(&gate, devices)[0].cure(&gate)
        };
        let bridge = [Device::example("br0", 5), member("eth0", 2, 5)];
        let vlan = [child("eth0.7", 5, 2), Device::example("eth0", 2)];
        for (devices, needs_guard) in [(&bridge, false), (&vlan, true), (&vrf(), true)] {
            let cure = of("socket_guard = false\n", devices);
            assert_eq!(cure.contains("socket_guard = true"), needs_guard, "{cure}");
            assert!(!of("", devices).contains("socket_guard"));
        }
        let members = (10..30).map(|index| member(&format!("veth{index}"), index, 5));
        let many =
            of("", &[Device::example("docker0", 5)].into_iter().chain(members).collect::<Vec<_>>());
        assert!(many.contains("veth17\"") && !many.contains("veth18\""), "{many}");
        assert!(many.ends_with("and 12 more: a glob such as \"veth*\" takes them all"), "{many}");
        let cure = of("interfaces = [\"eth*\"]\n", &bridge);
        assert!(cure.contains("let [gate] interfaces take \"br0\""), "{cure}");
    }

    #[test]
    fn nothing_is_in_doubt_without_a_device_above_a_gated_one() {
        let services = [service(2, true, false), service(2, false, true)];
        let devices =
            [Device::example("eth0", 2), Device::example("eth1", 3), Device::example("docker0", 4)];
        assert_eq!(of("", &devices, &services, "eth0 eth1 docker0"), [""; 0]);
    }

    #[test]
    fn only_ports_that_drain_here_can_lose_a_session() {
        let port = |port: u16, extra: &str| {
            let sources = "sources = [\"192.0.2.0/24\"]";
            format!("[[port]]\nport = {port}\nprotocol = \"tcp\"\n{sources}\n{extra}\n")
        };
        let directory = tempfile::tempdir().unwrap();
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let pem = key.to_public_key_pem(LineEnding::LF).unwrap();
        std::fs::write(directory.path().join("prod.pem"), pem).unwrap();
        let text = [
            "[host]\nid = \"h\"\n[[signer]]\nid = \"prod\"\npublic_key = \"prod.pem\"\n",
            &port(22, ""),
            &port(23, "sessions = \"cut\""),
            &port(24, "terminates = \"forwarded\""),
        ];
        let config = Config::parse(&text.concat(), &directory.path().join("c.toml")).unwrap();
        assert_eq!(drained(&config), ["22".parse::<PortRange>().unwrap()]);
    }

    #[test]
    fn link_local_addresses_are_those_of_fe80_10() {
        let v6 = |first, second| {
            let mut bytes = [0; 16];
            (bytes[0], bytes[1]) = (first, second);
            is_link_local(&Address::v6(bytes))
        };
        assert!(v6(0xfe, 0x80) && v6(0xfe, 0xbf) && !v6(0xfe, 0xc0) && !v6(0xfd, 0x80));
        assert!(!is_link_local(&Address::v4([0xfe, 0x80, 0, 1])));
    }
}
