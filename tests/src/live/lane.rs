//! A host under a flood: a namespace with one interface, and the sender at its other end.

use std::time::Duration;

use super::{Flood, Sources, Target, flood_cpu, receive_in_groups, stay_on};
use crate::netns::Namespace;

/// The host's interface.
pub const INTERFACE: &str = "f0";
/// The host's addresses, IPv4 and IPv6.
pub const TO: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
/// The sender's interface.
const SENDER: &str = "p0";

/// A host and a sender.
#[derive(Debug)]
pub struct Lane {
    /// The host's namespace.
    pub host: Namespace,
    sender: Namespace,
}

impl Lane {
    /// Makes both namespaces. The host has routes to the sources of floods, and takes frames as
    /// they come from the network card's driver (GRO), also without an XDP program.
    #[expect(clippy::new_without_default, reason = "it acts on the kernel")]
    pub fn new() -> Self {
        let (host, sender) = (Namespace::new(), Namespace::new());
        // Nothing but floods comes from it: no router solicitation either.
        sender.sysctl("ipv6/conf/default/disable_ipv6", "1");
        let [v4, v6] = TO;
        host.connect(INTERFACE, &[&format!("{v4}/24"), &format!("{v6}/64")], &sender, SENDER, &[]);
        for key in ["all", INTERFACE] {
            host.sysctl(&format!("ipv4/conf/{key}/rp_filter"), "0");
        }
        host.ip(&["route", "add", "172.16.0.0/12", "dev", INTERFACE]);
        host.ip(&["-6", "route", "add", "2001:db8:f::/48", "dev", INTERFACE]);
        host.run(|| receive_in_groups(INTERFACE));
        Self { host, sender }
    }

    /// A flood of one family (an index of [`TO`]) to the host.
    pub fn flood(&self, family: usize, sources: Sources) -> Flood {
        let address = TO.get(family).expect("a family").parse().expect("an address");
        let (mac, through) = (self.host.mac(INTERFACE), self.sender.index(SENDER));
        Flood::new(Target { address, mac, through }, sources)
    }

    /// Sends this number of frames of a flood, and returns the time that the kernel took for it.
    pub fn send(&self, flood: &Flood, frames: u32) -> Duration {
        self.sender.run(|| {
            stay_on(flood_cpu());
            flood.send(frames)
        })
    }

    /// Frames that came in at the host's interface. Its driver also counts those that an XDP
    /// program drops.
    pub fn received(&self) -> u64 {
        self.host.received(INTERFACE)
    }
}
