//! The kinds of devices, each as `ip` makes it on the host and at the other end.
//!
//! Placeholders: DEVICE is the device. MEMBER is the end of a veth pair below it, OTHER that of a
//! second pair. MIDDLE is a device between.

/// A kind of device.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Lines of `ip` that make it on the host.
    pub(super) host: &'static str,
    /// The same at the other end. Empty: there the addresses are on MEMBER.
    pub(super) far: &'static str,
    /// The number of veth pairs below it.
    pub(super) pairs: u32,
    /// The host's addresses are on MEMBER.
    pub(super) on_member: bool,
    /// A program on the device sees the packets.
    pub(super) seen_above: bool,
    /// A program on MEMBER and OTHER sees them.
    pub(super) seen_below: bool,
    /// A program there finds the sessions, so that they go on in drain.
    pub(super) found_below: bool,
    /// The other end asks nobody for the device's hardware address.
    pub(super) known: bool,
}

impl Kind {
    const fn new(name: &'static str, host: &'static str) -> Self {
        Self {
            name,
            host,
            far: "",
            pairs: 1,
            on_member: false,
            seen_above: true,
            seen_below: true,
            found_below: true,
            known: false,
        }
    }

    /// The same on both ends.
    const fn both(name: &'static str, both: &'static str) -> Self {
        Self { far: both, ..Self::new(name, both) }
    }

    /// Two members on both ends.
    const fn bundle(name: &'static str, both: &'static str) -> Self {
        Self { pairs: 2, ..Self::both(name, both) }
    }

    /// A child of MEMBER with addresses of its own, beside a parent that must not answer for it.
    const fn child(name: &'static str, host: &'static str) -> Self {
        Self { known: true, ..Self::new(name, host) }
    }
}

/// A switch. Its ways are in `coverage`.
pub(super) const BRIDGE: &Kind = &Kind::new(
    "bridge",
    "link add DEVICE type bridge forward_delay 0\nlink set MEMBER master DEVICE\n",
);

/// Devices with members that come and go.
pub(super) const BUNDLES: &[Kind] = &[
    Kind::bundle(
        "bond active-backup",
        "link add DEVICE type bond mode active-backup miimon 50\n\
         link set MEMBER master DEVICE\nlink set OTHER master DEVICE\n",
    ),
    Kind::bundle(
        "bond 802.3ad",
        "link add DEVICE type bond mode 802.3ad miimon 50 lacp_rate fast\n\
         link set MEMBER master DEVICE\nlink set OTHER master DEVICE\n",
    ),
    Kind::bundle(
        "bond balance-rr",
        "link add DEVICE type bond mode balance-rr miimon 50\n\
         link set MEMBER master DEVICE\nlink set OTHER master DEVICE\n",
    ),
    // Its mode is set before it has members.
    Kind::bundle("team", "link add DEVICE type team\n"),
];

/// All others.
pub(super) const OTHERS: &[Kind] = &[
    Kind::both("VLAN", "link set MEMBER up\nlink add link MEMBER name DEVICE type vlan id 7\n"),
    Kind::both(
        "QinQ",
        "link set MEMBER up\nlink add link MEMBER name MIDDLE type vlan proto 802.1ad id 7\n\
         link set MIDDLE up\nlink add link MIDDLE name DEVICE type vlan id 8\n",
    ),
    Kind {
        on_member: true,
        seen_above: false,
        found_below: false,
        ..Kind::new("VRF", "link add DEVICE type vrf table 77\nlink set MEMBER master DEVICE\n")
    },
    Kind::child(
        "ipvlan L2",
        "link set MEMBER up\nlink add link MEMBER name DEVICE type ipvlan mode l2\n",
    ),
    Kind::child(
        "ipvlan L3",
        "link set MEMBER up\nlink add link MEMBER name DEVICE type ipvlan mode l3\n\
         route add FAR4 dev MEMBER\nroute add FAR6 dev MEMBER\n",
    ),
    Kind {
        seen_above: false,
        ..Kind::child(
            "ipvlan L3S",
            "link set MEMBER up\nlink add link MEMBER name DEVICE type ipvlan mode l3s\n\
             route add FAR4 dev MEMBER\nroute add FAR6 dev MEMBER\n",
        )
    },
    Kind::child(
        "macvlan bridge",
        "link set MEMBER up\nlink add link MEMBER name DEVICE type macvlan mode bridge\n",
    ),
    Kind::child(
        "macvlan private",
        "link set MEMBER up\nlink add link MEMBER name DEVICE type macvlan mode private\n",
    ),
    Kind::child(
        "macvlan vepa",
        "link set MEMBER up\nlink add link MEMBER name DEVICE type macvlan mode vepa\n",
    ),
    Kind::child(
        "macvlan passthru",
        "link set MEMBER up\nlink add link MEMBER name DEVICE type macvlan mode passthru\n",
    ),
    Kind {
        pairs: 0,
        seen_below: false,
        far: "link add DEVICE type geneve id 7 remote HOST4\n",
        ..Kind::new("geneve", "link add DEVICE type geneve id 7 remote STRANGER4\n")
    },
];
