//! The addresses of this host's interfaces, in this process's network namespace.

use std::{io, net::IpAddr};

use nix::net::if_::InterfaceFlags;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The address.
    pub ip: IpAddr,
    /// The interface's name.
    pub interface: String,
    /// The interface is up, and its link too.
    pub up: bool,
}

/// Lists all of them. While interfaces come and go, some may be missing.
pub fn addresses() -> io::Result<Vec<HostAddress>> {
    let needed = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    let all = nix::ifaddrs::getifaddrs()?.filter_map(|one| {
        let storage = one.address?;
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let ip = v4.or_else(|| Some(IpAddr::V6(storage.as_sockaddr_in6()?.ip())))?;
        Some(HostAddress { ip, interface: one.interface_name, up: one.flags.contains(needed) })
    });
    Ok(all.collect())
}
