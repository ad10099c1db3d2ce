//! Where a webhook may go: not to this machine and its neighbours, unless the configuration allows it.
//!
//! Who may make a webhook must not reach what only the controller can reach: its own services, and the
//! metadata services of clouds, which are link-local. Each address is looked at when a connection is made,
//! so that a name that changes its address changes nothing.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Checks a webhook's URL: `https`, without a user, and no forbidden address.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check(text: &str, allow_private: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| format!("{text:?} is no URL: {why}"))?;
    match url.scheme() {
        "https" => {}
        "http" if allow_private => {}
        "http" => {
            return Err(
                "it must be https: what it says is nobody else's business; `allow_private = \
                        true` in [api] allows http"
                    .into(),
            );
        }
        other => return Err(format!("{other}: is not possible; only https: is")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password in it would be in the database; the receiver checks the \
                    signature instead"
            .into());
    }
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| format!("{text:?} names no host"))?;
    // Other spellings of addresses (`0x7f.1`) are plain ones after the parsing.
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>()
        && !allow_private
    {
        allowed(address)?;
    }
    Ok(url)
}

/// Refuses addresses of this machine and of its links.
///
/// # Errors
/// Which kind of address it is.
pub fn allowed(address: IpAddr) -> Result<(), String> {
    let kind = match plain(address) {
        IpAddr::V4(address) => forbidden_v4(address),
        IpAddr::V6(address) => forbidden_v6(address),
    };
    match kind {
        None => Ok(()),
        Some(kind) => Err(format!(
            "{address} is {kind}; `allow_private = true` in [api] allows such addresses"
        )),
    }
}

/// The IPv4 address in an IPv6 one: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| {
        let ([one, two], [three, four]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(one, two, three, four))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, high, low, ..) => v4(high, low),
        // IPv4-compatible (deprecated), but for :: and ::1.
        (0, 0, 0, 0, 0, 0) if g != 0 => v4(g, h),
        _ => address,
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [first, ..] = address.octets();
    match () {
        () if first == 0 => Some("an address of this machine"),
        () if address.is_loopback() => Some("an address of this machine"),
        () if address.is_link_local() => Some("a link-local address"),
        () if address.is_broadcast() || address.is_multicast() => Some("not one machine's address"),
        () => None,
    }
}

fn forbidden_v6(address: Ipv6Addr) -> Option<&'static str> {
    // The metadata service of AWS, by IPv6.
    let metadata = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match () {
        () if address.is_unspecified() || address.is_loopback() => {
            Some("an address of this machine")
        }
        () if address.is_unicast_link_local() => Some("a link-local address"),
        () if address == metadata => Some("a metadata service"),
        () if address.is_multicast() => Some("not one machine's address"),
        () => None,
    }
}

/// Looks names up as the system does, and gives only addresses that are allowed.
pub(super) struct Guarded;

impl Guarded {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self)
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut refused = format!("{} has no address", name.as_str());
            let mut good = Vec::new();
            for address in found {
                match allowed(address.ip()) {
                    Ok(()) => good.push(address),
                    Err(why) => refused = format!("{}: {why}", name.as_str()),
                }
            }
            if good.is_empty() {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused).into());
            }
            Ok(Box::new(good.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_and_its_links_are_refused_in_every_spelling() {
        for text in [
            "https://127.0.0.1/x",
            "https://127.1/x",
            "https://0x7f000001/x",
            "https://2130706433/x",
            "https://0/x",
            "https://169.254.169.254/latest",
            "https://[::1]/x",
            "https://[::]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://[::ffff:a9fe:a9fe]/x",
            "https://[::127.0.0.1]/x",
            "https://[64:ff9b::a9fe:a9fe]/x",
            "https://[2002:7f00:1::]/x",
            "https://[fe80::1]/x",
            "https://[fd00:ec2::254]/x",
            "https://255.255.255.255/x",
            "https://224.0.0.1/x",
            "http://192.0.2.1/x",
            "ftp://192.0.2.1/x",
            "https://user:secret@192.0.2.1/x",
            "https://",
            "web",
        ] {
            assert!(check(text, false).is_err(), "{text}");
        }
        for text in ["https://192.0.2.1/x", "https://10.1.2.3/x", "https://hooks.example.org/x"] {
            assert!(check(text, false).is_ok(), "{text}");
        }
        for text in ["http://127.0.0.1:8080/x", "https://[::1]/x"] {
            assert!(check(text, true).is_ok(), "{text}");
        }
        assert!(check("http://user@127.0.0.1/x", true).is_err());
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_not_resolved() {
        let failed = Guarded.resolve("localhost".parse().unwrap()).await;
        let why = failed.err().unwrap().to_string();
        assert!(why.contains("allow_private"), "{why}");
    }
}
