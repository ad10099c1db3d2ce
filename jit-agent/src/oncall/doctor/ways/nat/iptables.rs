//! Reads what `iptables-save -t nat` prints (iptables-save(8), iptables-extensions(8)). Pure.

use std::{net::IpAddr, ops::RangeInclusive};

use jit_common::Protocol;
use jit_proto::SourcePrefix;

use super::{Action, Only, Rule, Table};

/// Reads a table. `command`: how it is listed again.
pub(super) fn read(text: &str, command: &str) -> Table {
    let mut table = Table {
        list: format!("{command} -t nat -S"),
        begins: vec!["PREROUTING".into()],
        ..Table::default()
    };
    for line in text.lines() {
        let words = words(line);
        let mut words = words.iter().map(String::as_str);
        if let (Some("-A"), Some(chain)) = (words.next(), words.next())
            && let Some(rule) = rule(words)
        {
            table.chains.entry(chain.to_owned()).or_default().push(rule);
        }
    }
    table
}

/// A rule that goes on elsewhere; `None`: it does not.
fn rule<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Rule> {
    let mut only = Only::default();
    let (mut target, mut address, mut to) = (None, None, None);
    let mut negated = false;
    while let Some(word) = words.next() {
        // What a negated condition is for is not followed: everything.
        let not = std::mem::replace(&mut negated, word == "!");
        match word {
            "-j" | "-g" => target = words.next(),
            "--to-destination" => (address, to) = destination(words.next()?),
            "--to-ports" => to = range(words.next()?),
            "-p" if !not => only.protocol = protocol(words.next()?, &mut only.nothing),
            "-i" if !not => only.nothing |= words.next() == Some("lo"),
            "-d" if !not => only.destinations = Some(vec![prefix(words.next()?)?]),
            "--dport" | "--dports" if !not => only.ports = Some(ranges(words.next()?)),
            _ => {}
        }
    }
    let action = match target? {
        "DNAT" => Action::Translate { address, to },
        "REDIRECT" => Action::Translate { address: None, to },
        // Of targets that are no chain there is none with such a name.
        chain => Action::Jump(chain.to_owned()),
    };
    Some(Rule { only, action })
}

fn protocol(word: &str, nothing: &mut bool) -> Option<Protocol> {
    match word {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        "all" | "0" => None,
        _ => {
            *nothing = true;
            None
        }
    }
}

fn prefix(word: &str) -> Option<SourcePrefix> {
    word.parse().ok()
}

/// `80,443,1000:2000`.
fn ranges(word: &str) -> Vec<RangeInclusive<u16>> {
    word.split(',').filter_map(range).collect()
}

/// `80`, `1000:2000` or `1000-2000`.
fn range(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once([':', '-']).unwrap_or((word, word));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// `172.17.0.2:80`, `[2001:db8::2]:80-89`, `172.17.0.2-172.17.0.9`: the first address, and the
/// ports.
fn destination(word: &str) -> (Option<IpAddr>, Option<RangeInclusive<u16>>) {
    let (addresses, ports) = match word.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((addresses, rest)) => (addresses, rest.strip_prefix(':')),
        None => match word.split_once(':') {
            Some((_, rest)) if rest.contains(':') => (word, None),
            Some((addresses, ports)) => (addresses, Some(ports)),
            None => (word, None),
        },
    };
    let first = addresses.split('-').next().unwrap_or_default();
    (first.parse().ok(), ports.and_then(range))
}

/// The words of a line. Quotes keep blanks; a backslash keeps a quote.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let (mut quoted, mut kept) = (false, false);
    for letter in line.chars() {
        match letter {
            _ if std::mem::take(&mut kept) => word.get_or_insert_default().push(letter),
            '\\' if quoted => kept = true,
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{own, text},
        *,
    };

    /// As Docker and kube-proxy make them, and some by hand.
    const RULES: &str = r#"
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22
-A PREROUTING -d 198.51.100.1/32 -p udp -m multiport --dports 53,1000:1001 -j DNAT --to-destination 10.0.0.2-10.0.0.5:5353-5354
-A PREROUTING -i lo -p tcp -m tcp --dport 1 -j REDIRECT --to-ports 22
-A PREROUTING ! -p udp -m comment --comment "a \"-j DNAT\" -j b" -j KUBE-NODEPORTS
-A PREROUTING -p icmp -j DNAT --to-destination 10.0.0.9
-A OUTPUT -p tcp -m tcp --dport 3 -j REDIRECT --to-ports 22
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER -d 127.0.0.1/32 ! -i docker0 -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.17.0.2:81
-A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-X
-A KUBE-EXT-X -j KUBE-SEP-X
-A KUBE-SEP-X -p tcp -m tcp -j DNAT --to-destination 10.244.0.7:22
COMMIT
"#;

    #[test]
    fn the_rules_that_programs_make_are_followed() {
        let found = read(RULES, "iptables-legacy").translations(&own());
        assert_eq!(
            text(&found),
            [
                "tcp 2222 -> here 22",
                "tcp 30080 -> 10.244.0.7 22 (published)",
                "tcp 8080 -> 172.17.0.2 80 (published)",
                "udp 1000-1001 -> 10.0.0.2 5353-5354",
                "udp 53 -> 10.0.0.2 5353-5354",
            ]
        );
        let redirect = found.iter().find(|one| *one.ports.start() == 2222).unwrap();
        assert_eq!(redirect.list, "iptables-legacy -t nat -S PREROUTING");
    }

    #[test]
    fn a_destination_is_an_address_with_or_without_ports() {
        for (word, address, ports) in [
            ("172.17.0.2:80", "172.17.0.2", Some(80..=80)),
            ("172.17.0.2", "172.17.0.2", None),
            ("[2001:db8::2]:80-89", "2001:db8::2", Some(80..=89)),
            ("2001:db8::2", "2001:db8::2", None),
            ("[2001:db8::2]", "2001:db8::2", None),
        ] {
            assert_eq!(destination(word), (address.parse().ok(), ports), "{word}");
        }
        assert_eq!(destination("").0, None);
    }

    #[test]
    fn what_is_not_understood_opens_nothing_in_the_reading() {
        for line in ["-A", "-A PREROUTING", "-A PREROUTING -j", "-A PREROUTING -p tcp --dport", "x"]
        {
            assert_eq!(read(line, "iptables").translations(&own()), [], "{line}");
        }
    }
}
