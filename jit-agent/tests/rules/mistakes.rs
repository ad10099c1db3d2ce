//! Every mistake in a configuration is reported, with its line and with what to write instead; and one
//! mistake hides no other.

use std::path::Path;

use jit_agent::config::{Examined, Mistake};

/// A good file, without the key files that it names.
const GOOD: &str = r#"[host]
id = "web-1"
[gate]
mode = "enforce"
interfaces = ["eth*"]
exclude = [{ name = "mgmt0", reason = "own network" }]
confirm_within = "2m"
[[port]]
port = 22
protocol = "tcp"
sources = [
    "203.0.113.0/24",
    "2001:db8::/32",
]
max_duration = "3h"
exempt = [
    { source = "192.0.2.5", reason = "probe", owner = "netops", until = "2030-01-01T00:00:00Z" },
]
[[port]]
port = "5985-5986"
protocol = "tcp"
sources = ["10.0.0.0/8"]
[control]
listen = "0.0.0.0:7443"
certificate = "agent.pem"
key = "agent.key"
client_ca = "ca.pem"
[[controller]]
identity = "spiffe://example.org/controller"
may = ["grant", "read"]
[[signer]]
id = "prod"
public_key = "prod.pem"
ports = ["22/tcp"]
max_duration = "12h"
[audit]
max_size = "32MiB"
keep = 16
[limits]
hosts = 1000
prefixes = 1000
[break_glass]
max_duration = "1h"
[metrics]
listen = "127.0.0.1:9477"
[paths]
state = "/var/lib/jit-agent"
"#;

/// From, to, the line of the mistake, and parts of what is said.
type Case = (&'static str, &'static str, usize, &'static [&'static str]);

const CASES: &[Case] = &[
    // What keeps the file from being read.
    ("[gate]", "[gaet]", 3, &["`gaet`", "did you mean `gate`?"]),
    ("confirm_within", "confirm_withn", 7, &["`confirm_withn`", "did you mean `confirm_within`?"]),
    ("mode = \"enforce\"", "mode = \"Enforce\"", 4, &["[gate] mode", "did you mean `enforce`?"]),
    ("protocol = \"tcp\"", "protocol = \"TCP\"", 10, &["protocol", "did you mean `tcp`?"]),
    ("protocol = \"tcp\"\n", "", 8, &["[[port]]", "missing field `protocol`"]),
    ("[\"10.0.0.0/8\"]", "\"10.0.0.0/8\"", 22, &["sources", "write [\"10.0.0.0/8\"]"]),
    ("[\"10.0.0.0/8\"]", "\"10.0.0.0/8,::1\"", 22, &["write [\"10.0.0.0/8\", \"::1\"]"]),
    ("port = 22", "port = [22, 3389]", 9, &["a [[port]] section for each"]),
    ("port = 22", "port = 70000", 9, &["a port from 1 to 65535"]),
    ("\"2030-01-01T00:00:00Z\"", "2030-01-01T00:00:00Z", 17, &["exempt until", "in quotes"]),
    ("owner = \"netops\", ", "", 17, &["[[port]] exempt", "missing field `owner`"]),
    ("owner = \"netops\"", "ownr = \"netops\"", 17, &["did you mean `owner`?"]),
    ("keep = 16", "keep = \"16\"", 38, &["[audit] keep", "write 16, without quotes"]),
    ("max_duration = \"12h\"", "max_duration = 12", 35, &["in quotes with its unit"]),
    ("\"read\"", "\"reed\"", 30, &["may", "did you mean `read`?"]),
    ("[host]\nid = \"web-1\"\n", "", 1, &["[host]"]),
    ("[[controller]]", "[controller]", 28, &["write [[controller]]"]),
    // Wrong values.
    ("id = \"web-1\"", "id = \"AUTO\"", 2, &["[host] id", "write \"auto\", or the id"]),
    ("[\"eth*\"]", "[\"eth[\"]", 5, &["[gate] interfaces"]),
    ("\"own network\"", "\"\"", 6, &["exclude", "mgmt0", "reason"]),
    ("\"2m\"", "\"1d\"", 7, &["confirm_within", "write \"24h\""]),
    ("\"2m\"", "\"5s\"", 7, &["confirm_within", "from 10s to 1h"]),
    ("port = 22", "port = 0", 9, &["[[port]] port", "from 1 to 65535"]),
    ("\"5985-5986\"", "\"5986-5985\"", 20, &["not a range"]),
    ("\"5985-5986\"", "\"22-\"", 20, &["\"22-\"", "write 22 for this port alone"]),
    ("\"5985-5986\"", "\"23,3389\"", 20, &["a [[port]] section for each of 23, 3389"]),
    ("\"5985-5986\"", "\"20-30\"", 20, &["22/tcp is in two sections"]),
    ("\"203.0.113.0/24\"", "\"0/0\"", 12, &["0.0.0.0/0", "::/0"]),
    ("\"203.0.113.0/24\"", "\"10/8\"", 12, &["[[port]] 22/tcp: sources", "write \"10.0.0.0/8\""]),
    ("\"2001:db8::/32\"", "\"2001:db8::1/32\"", 13, &["bits set", "write 2001:db8::/32"]),
    ("\"2001:db8::/32\"", "\"web-2\"", 13, &["`web-2` is not an IPv4 or IPv6 address"]),
    ("max_duration = \"3h\"", "max_duration = \"P1D\"", 15, &["\"P1D\"", "write \"24h\""]),
    ("max_duration = \"3h\"", "max_duration = \"3600\"", 15, &["write \"3600s\""]),
    ("max_duration = \"3h\"", "widest_v4 = 33", 15, &["widest_v4: 33 is more than 32"]),
    ("max_duration = \"3h\"", "approvals = 2", 15, &["approvals: 2, but only 1 [[signer]]"]),
    ("\"netops\"", "\"\"", 17, &["exempt 192.0.2.5", "may not be empty"]),
    ("2030-01-01T00:00:00Z", "2030-01-01", 17, &["until", "write \"2030-01-01T00:00:00Z\""]),
    ("\"192.0.2.5\"", "\"192.0.2.500\"", 17, &["exempt: source"]),
    ("0.0.0.0:7443", "0.0.0.0:22", 24, &["[control] listen", "lock the controllers out"]),
    ("0.0.0.0:7443", ":7443", 24, &["write \"0.0.0.0:7443\""]),
    ("\"spiffe://example.org/controller\"", "\"\"", 29, &["identity is empty"]),
    ("[\"22/tcp\"]", "[\"22/TCP\"]", 34, &["[[signer]] \"prod\"", "write \"22/tcp\""]),
    ("[\"22/tcp\"]", "[]", 34, &["ports is empty"]),
    ("max_duration = \"12h\"", "not_after = \"soon\"", 35, &["[[signer]] \"prod\": not_after"]),
    ("id = \"prod\"", "id = \"\"", 32, &["id is empty"]),
    ("\"32MiB\"", "\"5 parsecs\"", 37, &["[audit] max_size"]),
    ("keep = 16", "keep = 0", 38, &["[audit] keep"]),
    ("hosts = 1000", "hosts = 0", 40, &["[limits] hosts"]),
    ("\"1h\"", "\"25h\"", 43, &["[break_glass] max_duration"]),
    ("127.0.0.1:9477", "0.0.0.0:9477", 45, &["[metrics] listen", "no loopback address"]),
    ("\"/var/lib/jit-agent\"", "\"state\"", 47, &["[paths] state", "absolute"]),
];

fn mistakes(text: &str) -> Vec<Mistake> {
    let examined = Examined::of(text, Path::new("/etc/jit-agent/config.toml"), None);
    examined.config.map_or_else(|error| error.mistakes().to_vec(), |_| Vec::new())
}

fn line(mistake: &Mistake) -> usize {
    mistake.place.map_or(0, |place| place.line)
}

#[test]
fn a_good_file_has_none() {
    assert_eq!(mistakes(GOOD), []);
}

#[test]
fn each_mistake_is_named_once_with_its_line_and_what_to_write() {
    for (from, to, at, says) in CASES {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let found = mistakes(&text);
        let [one] = found.as_slice() else { panic!("{to}: {found:#?}") };
        assert_eq!(line(one), *at, "{to}: {one:?}");
        for word in *says {
            assert!(one.text.contains(word), "{word:?} is not in: {}", one.text);
        }
        assert_eq!(one.text.lines().count(), 1, "{}", one.text);
    }
}

/// Those that can stand together, of both kinds.
#[test]
fn one_mistake_hides_no_other() {
    let mut text = GOOD.to_owned();
    let mut expected = Vec::new();
    for (from, to, at, says) in CASES {
        // Each line once, none that moves another, and none that needs another value to be good.
        let alone = to.contains("0.0.0.0:22") || to.contains('[') || from.contains('\n');
        let apart = text.contains(from) && !alone;
        let moved = text.replacen(from, to, 1);
        let here = GOOD.lines().zip(moved.lines()).filter(|(one, other)| one != other).count();
        if apart && here == expected.len() + 1 && !expected.iter().any(|(line, _)| line == at) {
            text = moved;
            expected.push((*at, *says));
        }
    }
    assert!(expected.len() > 15, "{expected:?}");
    let found = mistakes(&text);
    for (at, says) in &expected {
        let hit =
            |one: &&Mistake| line(one) == *at && says.iter().all(|says| one.text.contains(says));
        assert!(found.iter().any(|one| hit(&one)), "{at} {says:?}: {found:#?}\n{text}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(found.is_sorted(), "in the order of the file: {found:#?}");
}

#[test]
fn one_line_says_the_first_and_how_many_more_there_are() {
    let text = GOOD.replace("port = 22", "port = 0").replace("keep = 16", "keep = 0");
    let examined = Examined::of(&text, Path::new("/etc/jit-agent/config.toml"), None);
    let error = examined.config.unwrap_err();
    let brief = error.brief();
    assert!(brief.starts_with("line 9: [[port]] port: 0-0 is not a range"), "{brief}");
    assert!(brief.ends_with(" (and 1 more; see `jit-agent check`)"), "{brief}");
    let whole = error.to_string();
    assert!(whole.contains("\n  /etc/jit-agent/config.toml:38:8: [audit] keep"), "{whole}");
}
