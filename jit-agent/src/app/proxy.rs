//! Which proxy stands between the agent and a hub. Pure: the environment is an argument.
//!
//! `HTTPS_PROXY` and `NO_PROXY` have no specification; this follows what curl documents
//! (curl(1), "ENVIRONMENT"): the name in small letters comes first; an entry of `NO_PROXY` is a domain
//! with all below it, an address, a network, or `*`; a port after it limits it to that port.

use std::net::IpAddr;

use jit_proto::SourcePrefix;

use crate::config::{Hub, Proxy};

/// A proxy, and `USER:PASSWORD` for it; empty: none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Between {
    pub(super) proxy: Hub,
    pub(super) credentials: String,
}

/// The proxy for this hub; `None`: none. `credentials` are those of the configuration.
pub(super) fn between(
    proxy: &Proxy,
    hub: &Hub,
    credentials: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Option<Between>, String> {
    let set = |name: &str| {
        let value = environment(&name.to_ascii_lowercase()).or_else(|| environment(name));
        value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let given = match proxy {
        Proxy::None => return Ok(None),
        Proxy::At(proxy) => {
            let (proxy, credentials) = (proxy.clone(), credentials.to_owned());
            return Ok(Some(Between { proxy, credentials }));
        }
        Proxy::Environment => ["HTTPS_PROXY", "ALL_PROXY"].into_iter().find_map(|name| {
            let value = set(name)?;
            Some((name, value))
        }),
    };
    let Some((name, value)) = given else { return Ok(None) };
    if set("NO_PROXY").is_some_and(|list| is_exempt(&list, hub)) {
        return Ok(None);
    }
    // The value may hold a password: no error shows it.
    let wrong = |why: &str| format!("{name} of the service's environment: {why}");
    let rest = match value.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err(wrong("only http:// proxies are known")),
        None => &value,
    };
    let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    let place = place.strip_suffix('/').unwrap_or(place);
    let proxy = Hub::parse(place).map_err(|_| wrong("it is not http://HOST:PORT"))?;
    let login = decoded(login).ok_or_else(|| wrong("its user and password cannot be read"))?;
    let credentials = if credentials.is_empty() { login } else { credentials.to_owned() };
    Ok(Some(Between { proxy, credentials }))
}

/// Whether the hub is reached without a proxy.
fn is_exempt(list: &str, hub: &Hub) -> bool {
    let entries = list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
    let mut entries = entries.map(|entry| entry.to_ascii_lowercase());
    entries.any(|entry| matches(&entry, hub))
}

fn matches(entry: &str, Hub { host, port }: &Hub) -> bool {
    if entry == "*" {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    let network = |text: &str| text.parse::<SourcePrefix>().ok();
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    if let (Some(address), Some(network)) = (address, network(&bare(entry))) {
        return network.contains(&SourcePrefix::from(address));
    }
    let (name, of_port) = match entry.rsplit_once(':') {
        Some((name, of_port)) => match of_port.parse::<u16>() {
            Ok(of_port) => (bare(name), Some(of_port)),
            Err(_) => return false,
        },
        None => (entry.to_owned(), None),
    };
    if of_port.is_some_and(|of_port| of_port != *port) {
        return false;
    }
    if let Some(address) = address {
        return network(&name).is_some_and(|network| network.contains(&address.into()));
    }
    let name = name.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.');
    let host = host.to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    let below = |host: &str| host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
    !name.is_empty() && (host == name || below(host))
}

/// Undoes percent-encoding (RFC 3986 section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    // It becomes a header.
    (!text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> Hub {
        Hub::parse(text).unwrap()
    }

    fn by(environment: &[(&str, &str)], to: &str) -> Result<Option<Between>, String> {
        let value = |name: &str| {
            let found = environment.iter().find(|(one, _)| *one == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        between(&Proxy::Environment, &hub(to), "", value)
    }

    fn through(environment: &[(&str, &str)], to: &str) -> String {
        by(environment, to).unwrap().map(|one| one.proxy.to_string()).unwrap_or_default()
    }

    const TO: &str = "hub-a.example.org:443";

    #[test]
    fn the_configuration_says_whether_the_environment_counts() {
        let set = |_: &str| Some("http://env.example.org:3128".to_owned());
        assert_eq!(between(&Proxy::None, &hub(TO), "", set), Ok(None));
        let at = Proxy::At(hub("proxy.example.org:8080"));
        let found = between(&at, &hub(TO), "ana:x", set).unwrap().unwrap();
        assert_eq!(found.proxy.to_string(), "proxy.example.org:8080");
        assert_eq!(found.credentials, "ana:x");
        assert_eq!(through(&[], TO), "");
        assert_eq!(through(&[("HTTPS_PROXY", " ")], TO), "");
        assert_eq!(
            through(&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2/")], TO),
            "b:2"
        );
        assert_eq!(through(&[("ALL_PROXY", "a:1")], TO), "a:1");
    }

    #[test]
    fn no_proxy_names_domains_addresses_networks_and_ports() {
        let proxy = ("https_proxy", "http://p:1");
        for (list, to, exempt) in [
            ("*", TO, true),
            ("example.org", TO, true),
            (".example.org", TO, true),
            ("*.example.org", TO, true),
            ("EXAMPLE.ORG.", TO, true),
            ("hub-a.example.org", TO, true),
            ("hub-a.example.org:443", TO, true),
            ("hub-a.example.org:444", TO, false),
            ("ample.org", TO, false),
            ("b.example.org,  a.example.org", TO, false),
            ("localhost 127.0.0.1,example.org", TO, true),
            ("192.0.2.0/24", "192.0.2.7:443", true),
            ("192.0.2.7", "192.0.2.7:443", true),
            ("192.0.2.7:443", "192.0.2.7:443", true),
            ("192.0.2.7:444", "192.0.2.7:443", false),
            ("192.0.2.0/24", "198.51.100.1:443", false),
            ("0.0.0.0/0", TO, false),
            ("2001:db8::/32", "[2001:db8::1]:443", true),
            ("[2001:db8::1]", "[2001:db8::1]:443", true),
            ("[2001:db8::1]:443", "[2001:db8::1]:443", true),
            ("2001:db8::2", "[2001:db8::1]:443", false),
            (",, ,", TO, false),
        ] {
            let found = through(&[proxy, ("no_proxy", list)], to);
            assert_eq!(found.is_empty(), exempt, "{list:?} {to}");
        }
    }

    #[test]
    fn a_password_in_the_environment_is_used_and_never_shown() {
        let found = by(&[("https_proxy", "http://ana:p%40ss@p.example.org:3128")], TO);
        let found = found.unwrap().unwrap();
        assert_eq!((found.proxy.port, found.credentials.as_str()), (3128, "ana:p@ss"));
        for value in ["https://ana:secret@p:1", "http://ana:secret@p", "http://ana:secret%0a@p:1"] {
            let why = by(&[("https_proxy", value)], TO).unwrap_err();
            assert!(why.contains("HTTPS_PROXY") && !why.contains("secret"), "{why}");
        }
    }
}
