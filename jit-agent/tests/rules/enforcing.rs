//! What may be called ENFORCING.

use jit_agent::{
    config::Config,
    kernel::datapath::{InterfaceState, guard::GuardState},
};
use jit_proto::Hook;

use crate::{
    host::Host,
    support::{HOST, NOW, key, pem},
};

const GATED: &str = "gated";
const NONE: &str = "none";
/// Left out, with and without a reason.
const EXCUSED: &str = "excused";
const FORGOTTEN: &str = "forgotten";

/// An interface in one of these states.
fn interface(state: &str) -> InterfaceState {
    let without = InterfaceState {
        name: state.into(),
        index: 2,
        hook: None,
        since: None,
        note: "it is".into(),
        foreign_first: false,
        left_out: None,
        changes: Vec::new(),
    };
    match state {
        GATED => InterfaceState { hook: Some(Hook::Tcx), ..without },
        EXCUSED => InterfaceState { left_out: Some("own network".into()), ..without },
        FORGOTTEN => InterfaceState { left_out: Some(String::new()), ..without },
        _ => without,
    }
}

/// A configuration with these ports and settings of the gate.
fn of_ports(gate: &str, ports: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(directory.path().join("1.pem"), pem(&key(1))).unwrap();
    let signer = "[[signer]]\nid = \"prod\"\npublic_key = \"1.pem\"\n";
    let text = format!("[host]\nid = \"{HOST}\"\n[gate]\n{gate}\n{ports}{signer}");
    std::fs::write(&path, text).unwrap();
    Config::read(&path).unwrap()
}

/// The one place that says what `ENFORCING` and its exit code 0 promise: each protected port is
/// closed to everybody without a grant, but for what the configuration names with a reason.
#[test]
fn enforcing_is_never_said_while_a_protected_port_can_be_reached() {
    let section = |number: u16| {
        format!("[[port]]\nport = {number}\nprotocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]\n")
    };
    let (ssh, rdp) = (&*section(22), &*section(3389));
    let web = &*(section(443) + "terminates = \"forwarded\"\n");
    const OBSERVE: &str = "mode = \"observe\"\n";
    let exempt = |sources: &[&str], until: &str| {
        let each = sources.iter().map(|source| {
            format!("{{ source = \"{source}\", reason = \"r\", owner = \"o\"{until} }}")
        });
        format!("exempt = [{}]\n", each.collect::<Vec<_>>().join(", "))
    };
    let some = ssh.to_owned() + &exempt(&["198.51.100.0/24", "2001:db8::/32"], "");
    let all = ssh.to_owned() + &exempt(&["0.0.0.0/0"], "");
    let halves = ssh.to_owned() + &exempt(&["8000::/1", "::/1"], "");
    let ended = ssh.to_owned() + &exempt(&["0.0.0.0/0"], ", until = \"2026-05-31T00:00:00Z\"");
    let join = |one: &str, other: &str| format!("{one}{other}");
    let (on, off) = (Some(true), None);
    let lost = Some(false);
    for (gate, ports, interfaces, guard, state, problem) in [
        ("", ssh.into(), vec![GATED], on, "enforcing", ""),
        ("", ssh.into(), vec![GATED], off, "enforcing", ""),
        ("", ssh.into(), vec![NONE], off, "not_enforcing", "none is not gated"),
        ("", ssh.into(), vec![GATED, NONE], off, "degraded", "none is not gated"),
        ("", ssh.into(), vec![GATED, NONE], on, "degraded", "left to the socket guard"),
        ("", ssh.into(), vec![], off, "not_enforcing", "no interface matches"),
        ("", ssh.into(), vec![GATED], lost, "degraded", "the socket guard is not in force"),
        // What the configuration leaves out.
        ("", ssh.into(), vec![GATED, FORGOTTEN], off, "degraded", "every protected port can be"),
        ("", ssh.into(), vec![GATED, FORGOTTEN], lost, "degraded", "every protected port can be"),
        ("", ssh.into(), vec![GATED, FORGOTTEN], on, "enforcing", ""),
        ("", ssh.into(), vec![GATED, EXCUSED], off, "enforcing", ""),
        ("", ssh.into(), vec![EXCUSED], off, "not_enforcing", "no interface matches"),
        ("", ssh.into(), vec![FORGOTTEN], off, "not_enforcing", "every protected port can be"),
        // The guard does not see what the host forwards.
        ("", join(ssh, web), vec![GATED, FORGOTTEN], on, "degraded", "443/tcp, which this host"),
        ("", join(ssh, web), vec![GATED, EXCUSED], on, "enforcing", ""),
        ("", join(ssh, web), vec![EXCUSED], on, "degraded", "443/tcp can be reached"),
        ("", web.into(), vec![EXCUSED], on, "not_enforcing", "443/tcp can be reached"),
        // Observe mode, and no port at all.
        (OBSERVE, ssh.into(), vec![GATED], on, "not_enforcing", ""),
        ("", join(ssh, OBSERVE), vec![GATED], on, "not_enforcing", "22/tcp is in observe mode"),
        ("", join(ssh, OBSERVE) + rdp, vec![GATED], on, "degraded", "22/tcp is in observe mode"),
        ("", String::new(), vec![GATED], on, "not_enforcing", "nothing is protected"),
        // Exemptions.
        ("", some, vec![GATED], on, "enforcing", ""),
        ("", ended, vec![GATED], on, "enforcing", ""),
        ("", all.clone(), vec![GATED], on, "not_enforcing", "22/tcp is open to all over IPv4"),
        ("", all + rdp, vec![GATED], on, "degraded", "22/tcp is open to all over IPv4"),
        ("", halves, vec![GATED], on, "not_enforcing", "22/tcp is open to all over IPv6"),
    ] {
        let case = format!("{gate} {ports} {interfaces:?} {guard:?}");
        let mut host = Host::start();
        let there = |attached| GuardState { wanted: true, attached, ..GuardState::default() };
        let guard = guard.map_or_else(GuardState::default, there);
        host.kernel.has(interfaces.into_iter().map(interface).collect(), Some(guard));
        host.gate().reconfigure(of_ports(gate, &ports), NOW).unwrap();
        let status = host.gate().status(NOW);
        let problems = status.problems.join("; ");
        assert_eq!(status.state, state, "{case}: {problems}");
        assert!(problems.contains(problem), "{case}: {problems}");
        assert_eq!(problems.is_empty(), problem.is_empty(), "{case}: {problems}");
        let open = problems.contains("open to all");
        assert_eq!(status.ports.iter().any(|port| port.open_to_all), open, "{case}");
    }
}
