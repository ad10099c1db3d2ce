//! Whether anybody can reach the address that the agent listens on. Pure.

use std::net::IpAddr;

use crate::system::addresses::HostAddress;

/// Why nobody on another machine can reach this address; `None`: somebody may.
pub(super) fn unreachable(listen: IpAddr, addresses: &[HostAddress]) -> Option<String> {
    let remote = |one: &&HostAddress| !one.ip.is_loopback();
    if listen.is_unspecified() {
        // `[::]` takes IPv4 as well.
        let fits = |one: &&HostAddress| listen.is_ipv6() || one.ip.is_ipv4();
        let any = addresses.iter().filter(remote).filter(fits).any(|one| one.up);
        return (!any).then(|| "no interface that is up has an address".into());
    }
    if listen.is_loopback() {
        return Some(format!("only this host itself reaches {listen}"));
    }
    let of_it: Vec<_> = addresses.iter().filter(|one| one.ip == listen).collect();
    match of_it.first() {
        None => Some(format!("no interface has {listen}")),
        Some(_) if of_it.iter().any(|one| one.up) => None,
        Some(one) => Some(format!("{}, which has {listen}, is down", one.interface)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: &str, interface: &str, up: bool) -> HostAddress {
        HostAddress { ip: ip.parse().unwrap(), interface: interface.into(), up }
    }

    #[test]
    fn an_address_that_nobody_reaches_is_named_with_the_cause() {
        let lo = [at("127.0.0.1", "lo", true), at("::1", "lo", true)];
        let eth = [at("192.0.2.1", "eth0", true), at("2001:db8::1", "eth0", true)];
        let down = [at("192.0.2.1", "eth0", false)];
        // An address for anycast is on loopback, and is reached by routes.
        let anycast = [at("198.51.100.1", "lo", true)];
        for (listen, addresses, says) in [
            ("192.0.2.1", [&lo[..], &eth].concat(), None),
            ("192.0.2.2", [&lo[..], &eth].concat(), Some("no interface has 192.0.2.2")),
            ("192.0.2.1", down.to_vec(), Some("eth0, which has 192.0.2.1, is down")),
            ("127.0.0.1", lo.to_vec(), Some("only this host itself reaches 127.0.0.1")),
            ("198.51.100.1", anycast.to_vec(), None),
            ("0.0.0.0", [&lo[..], &eth].concat(), None),
            ("::", down.to_vec(), Some("no interface that is up has an address")),
            ("0.0.0.0", lo.to_vec(), Some("no interface that is up has an address")),
            ("0.0.0.0", vec![at("2001:db8::1", "eth0", true)], Some("no interface")),
            ("::", vec![at("192.0.2.1", "eth0", true)], None),
        ] {
            let found = unreachable(listen.parse().unwrap(), &addresses);
            match says {
                None => assert_eq!(found, None, "{listen} {addresses:?}"),
                Some(says) => assert!(found.unwrap().starts_with(says), "{listen} {addresses:?}"),
            }
        }
    }
}
