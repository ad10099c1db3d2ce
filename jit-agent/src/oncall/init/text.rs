//! The configuration as `init` writes it: commented, in observe mode, with a last line by which `init`
//! knows its own text again.

use std::fmt::Write as _;

use jit_proto::{PortRange, port_section::quoted};

use super::{
    choices::{Choices, Exempt},
    files::Places,
    mark::marked,
    survey::Survey,
};

/// Before a line that is to be good as soon as somebody removes this.
const LATER: &str = "#control# ";

/// The configuration. `ready`: `[control]` and `[uplink]` are in force, else they are comments.
pub(super) fn configuration(
    choices: &Choices,
    survey: &Survey,
    places: &Places,
    ready: bool,
) -> String {
    let mut text = format!(
        "# {}: what this host protects, and the most that any grant may open.\n\
         # Written by `jit-agent init`. Every key is explained in /usr/share/doc/jit-agent/example.toml.\n\
         # After an edit: `jit-agent check`, then `systemctl reload jit-agent`. An invalid file changes nothing.\n\
         \n\
         [host]\n\
         # The exact id that grants name.\n\
         id = {}\n\
         \n\
         [gate]\n\
         # \"observe\" counts what it would drop, and drops nothing. `jit-agent enforce` shows who would be\n\
         # shut out, closes on trial, and opens again by itself unless `jit-agent confirm` follows.\n\
         mode = \"observe\"\n\
         # All interfaces but loopback get the gate, also those that come later.\n\
         interfaces = [\"*\"]\n",
        shown(&places.config.display().to_string()),
        quoted(&choices.host),
    );
    text += &excluded(choices, survey);
    for range in &choices.ports {
        text += &port(*range, choices, survey);
    }
    text += &controllers(choices, places, ready);
    text += &signers(choices, places);
    marked(text)
}

/// The text as it is when `[control]` and `[uplink]` are in force.
pub(super) fn uncommented(text: &str) -> String {
    text.lines().map(|line| line.strip_prefix(LATER).unwrap_or(line).to_owned() + "\n").collect()
}

fn excluded(choices: &Choices, survey: &Survey) -> String {
    let one = |name: &String| {
        format!("{{ name = {}, reason = \"left out at jit-agent init\" }}", quoted(name))
    };
    let names: Vec<_> = choices.exclude.iter().map(one).collect();
    let mut text = format!("exclude = [{}]\n", names.join(", "));
    let containers = survey.of_containers();
    if !containers.is_empty() {
        let _never = writeln!(
            text,
            "# Of containers and virtual machines: {}. They may reach protected ports, too.",
            shown(&containers.join(" "))
        );
    }
    text
}

fn port(range: PortRange, choices: &Choices, survey: &Survey) -> String {
    let PortRange { protocol, first, last } = range;
    let number = if first == last { first.to_string() } else { format!("\"{first}-{last}\"") };
    let sources: Vec<_> =
        choices.sources.iter().map(|source| quoted(&source.to_string())).collect();
    let listener = survey.listeners.iter().find(|listener| {
        listener.port.protocol == protocol && (first..=last).contains(&listener.port.port)
    });
    let what = listener.map(|listener| format!("# {}\n", listener.what)).unwrap_or_default();
    let mut text = format!(
        "\n{what}[[port]]\n\
         port = {number}\n\
         protocol = \"{}\"\n\
         sources = [{}]   # the widest that a grant may name\n\
         max_duration = \"3h\"\n\
         # \"cut\": established sessions end with the grant\n\
         sessions = \"drain\"\n",
        protocol.word(),
        sources.join(", "),
    );
    let is_here = |exempt: &&Exempt| {
        exempt
            .port
            .is_none_or(|port| port.protocol == protocol && (first..=last).contains(&port.port))
    };
    let exempt: Vec<_> = choices.exempt.iter().filter(is_here).collect();
    if !exempt.is_empty() {
        text += "# These need no grant until then.\nexempt = [\n";
        for Exempt { source, reason, .. } in exempt {
            let _never = writeln!(
                text,
                "  {{ source = {}, reason = {}, owner = {}, until = \"{}\" }},",
                quoted(&source.to_string()),
                quoted(reason),
                quoted(&survey.caller),
                choices.until
            );
        }
        text += "]\n";
    }
    text
}

/// Where controllers connect, where the host connects to, and who may call.
fn controllers(choices: &Choices, places: &Places, ready: bool) -> String {
    let path = |path: std::path::PathBuf| quoted(&path.display().to_string());
    let files = |ca: &str| {
        [
            format!("certificate = {}", path(places.certificate())),
            format!("key = {}", path(places.key())),
            format!("{ca} = {}", path(places.client_ca())),
        ]
    };
    let mut lines = Vec::new();
    let mut text = String::new();
    if let Some(listen) = choices.listen {
        text += "\n# Controllers connect here, with a client certificate of this CA.\n";
        lines.extend(["[control]".to_owned(), format!("listen = {}", quoted(&listen.to_string()))]);
        lines.extend(files("client_ca"));
    }
    if !choices.hubs.is_empty() {
        text += "\n# This host connects to one of these hubs, whose certificate is of this CA.\n";
        let hubs: Vec<_> = choices.hubs.iter().map(|hub| quoted(&hub.to_string())).collect();
        lines.extend(["[uplink]".to_owned(), format!("hubs = [{}]", hubs.join(", "))]);
        lines.extend(files("ca"));
        lines.push(format!("proxy = {}", quoted(&choices.proxy.to_string())));
    }
    for identity in &choices.controllers {
        lines.extend([
            "[[controller]]".to_owned(),
            format!("identity = {}", quoted(identity)),
            "may = [\"grant\", \"revoke\", \"read\"]".to_owned(),
        ]);
    }
    let begin = if ready { "" } else { LATER };
    if !ready {
        text += "# Not in force: the certificate or the CA is not there yet. When they are:\n\
                 # sed -i 's/^#control# //' on this file, `jit-agent check`, `systemctl reload jit-agent`.\n";
    }
    for line in lines {
        let _never = writeln!(text, "{begin}{line}");
    }
    if choices.controllers.is_empty() {
        let name = if choices.hubs.is_empty() { "jit-controller" } else { "jit-hub" };
        let _never = writeln!(
            text,
            "# Who may call: a name in the certificate.\n\
             # [[controller]]\n\
             # identity = \"spiffe://example.org/{name}\"\n\
             # may = [\"grant\", \"revoke\", \"read\"]"
        );
    }
    text
}

fn signers(choices: &Choices, places: &Places) -> String {
    let mut text =
        String::from("\n# Whose signature opens: public keys, as `jitctl keygen` makes them.\n");
    for signer in &choices.signers {
        let _never = writeln!(
            text,
            "[[signer]]\nid = {}\npublic_key = {}\nmax_duration = \"12h\"",
            quoted(&signer.id),
            quoted(&places.signer(&signer.id).display().to_string())
        );
    }
    if choices.signers.is_empty() {
        let _never = writeln!(
            text,
            "# There is none yet: no grant opens anything, and `jit-agent enforce` refuses.\n\
             # [[signer]]\n# id = \"prod-2026\"\n# public_key = {}\n# max_duration = \"12h\"",
            quoted(&places.signer("prod-2026").display().to_string())
        );
    }
    text.push('\n');
    text
}

/// Text of the host in a comment: on one line.
fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Hub, Loaded, Proxy};

    fn places() -> Places {
        Places::new(Path::new("/nowhere/jit-agent/config.toml")).unwrap()
    }

    fn choices(host: &str, exclude: &str) -> Choices {
        Choices {
            host: host.into(),
            ports: vec!["22/tcp".parse().unwrap(), "5985-5986/tcp".parse().unwrap()],
            sources: vec!["0.0.0.0/0".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            exempt: vec![Exempt {
                source: "198.51.100.9/32".parse().unwrap(),
                port: Some("22/tcp".parse::<PortRange>().unwrap().ports().next().unwrap()),
                reason: "was connected".into(),
            }],
            until: jit_proto::WallTime(4_000_000_000_000),
            exclude: if exclude.is_empty() { vec![] } else { vec![exclude.into()] },
            signers: vec![],
            controllers: vec!["spiffe://example.org/jit-controller".into()],
            listen: Some("0.0.0.0:7443".parse().unwrap()),
            hubs: vec![],
            proxy: Proxy::None,
            connected: vec![],
        }
    }

    fn survey(caller: &str) -> Survey {
        Survey { caller: caller.into(), ..Survey::default() }
    }

    #[test]
    fn the_configuration_is_accepted_as_it_is_and_with_control() {
        let places = places();
        let text = configuration(&choices("web-1", "mgmt0"), &survey("ana"), &places, false);
        let loaded = Loaded::parse(&text, &places.config, &[]).unwrap();
        let config = loaded.config;
        assert!(config.gate.observe && config.host == "web-1" && config.control.is_none());
        assert_eq!(config.policy.sections().len(), 2);
        let later = Loaded::parse(&uncommented(&text), &places.config, &[]).unwrap().config;
        assert!(later.control.is_some());
        assert_eq!(later.controllers.len(), 1);
        let now = configuration(&choices("web-1", ""), &survey("ana"), &places, true);
        assert!(Loaded::parse(&now, &places.config, &[]).unwrap().config.control.is_some());
    }

    #[test]
    fn with_a_hub_the_configuration_has_an_uplink_and_no_port_of_its_own() {
        let places = places();
        let hub = Hub::parse("hub.example.org:443").unwrap();
        let proxy = Proxy::At(Hub::parse("proxy.example.org:3128").unwrap());
        let listen = choices("web-1", "").listen;
        for (listen, ready) in [(None, false), (None, true), (listen, false), (listen, true)] {
            let choices = Choices {
                listen,
                hubs: vec![hub.clone()],
                proxy: proxy.clone(),
                ..choices("web-1", "")
            };
            let text = configuration(&choices, &survey("ana"), &places, ready);
            let now = Loaded::parse(&text, &places.config, &[]).unwrap().config;
            assert_eq!(now.uplink.is_some(), ready, "{text}");
            let later = Loaded::parse(&uncommented(&text), &places.config, &[]).unwrap().config;
            assert_eq!(later.control.is_some(), listen.is_some(), "{text}");
            let uplink = later.uplink.unwrap();
            assert_eq!((uplink.hubs, uplink.proxy), (vec![hub.clone()], proxy.clone()));
            assert_eq!(later.controllers.len(), 1);
        }
    }

    proptest! {
        #[test]
        fn any_name_round_trips_or_is_refused(host in "\\PC{1,40}", exclude in "\\PC{1,20}", owner in ".{1,20}") {
            let places = places();
            let text = configuration(&choices(&host, &exclude), &survey(&owner), &places, false);
            if let Ok(loaded) = Loaded::parse(&text, &places.config, &[]) {
                prop_assert_eq!(&loaded.config.host, &host);
                prop_assert_eq!(loaded.config.policy.sections().len(), 2);
            }
            // Whatever a name is, it is one value: nothing of it becomes a key.
            prop_assert!(text.parse::<toml::Table>().is_ok(), "{}", text);
        }
    }
}
