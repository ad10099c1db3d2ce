//! The network of a sender. One sender can have many addresses, so they are counted together.

use std::net::IpAddr;

use jit_proto::SourcePrefix;

/// A sender's network at two widths. A site has an IPv6 /64, and often a whole /48. For IPv4 these
/// are the address and its /24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Network {
    /// /64 or /32.
    pub(super) narrow: SourcePrefix,
    /// /48 or /24.
    pub(super) wide: SourcePrefix,
}

impl Network {
    pub(super) fn of(source: IpAddr) -> Self {
        let address = SourcePrefix::from(source);
        let (narrow, wide) = if source.to_canonical().is_ipv4() { (32, 24) } else { (64, 48) };
        Self { narrow: address.widened(narrow), wide: address.widened(wide) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_counts_as_its_site() {
        for (source, narrow, wide) in [
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ] {
            let network = Network::of(source.parse().unwrap());
            let shown = [network.narrow, network.wide].map(|prefix| prefix.to_string());
            assert_eq!(shown, [narrow, wide]);
        }
    }
}
