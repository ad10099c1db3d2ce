//! Listeners by which hosts are administered, on ports that are not protected. Pure.

use std::collections::BTreeMap;

use jit_common::{PortKey, Protocol};

use super::{Listener, Seen, port_text, section};
use crate::oncall::finding::Finding;

const CHECK: &str = "listeners";

/// TCP ports of administration, from the first to the last (IANA's registry of service names, and
/// the services' own documentation). Not those of file services and databases.
const ADMINISTRATION: [(u16, u16, &str); 15] = [
    (22, 22, "SSH"),
    (23, 23, "Telnet"),
    (512, 514, "rexec, rlogin, rsh"),
    (2375, 2376, "the Docker API"),
    (2379, 2380, "etcd"),
    (3389, 3389, "RDP"),
    (5900, 5909, "VNC"),
    (5985, 5986, "WinRM"),
    (6443, 6443, "the Kubernetes API"),
    (8006, 8006, "Proxmox VE"),
    (9090, 9090, "Cockpit"),
    (10_000, 10_000, "Webmin"),
    (10_250, 10_250, "kubelet"),
    (16_509, 16_509, "libvirt"),
    (16_514, 16_514, "libvirt"),
];

/// Programs that give a shell or a desktop, on whichever port.
const PROGRAMS: [(&str, &str); 17] = [
    ("Xtigervnc", "VNC"),
    ("Xvnc", "VNC"),
    ("cockpit-tls", "Cockpit"),
    ("cockpit-ws", "Cockpit"),
    ("code-server", "a shell by the web"),
    ("dockerd", "the Docker API"),
    ("dropbear", "SSH"),
    ("gotty", "a shell by the web"),
    ("in.telnetd", "Telnet"),
    ("kubelet", "kubelet"),
    ("libvirtd", "libvirt"),
    ("shellinaboxd", "a shell by the web"),
    ("sshd", "SSH"),
    ("telnetd", "Telnet"),
    ("ttyd", "a shell by the web"),
    ("x11vnc", "VNC"),
    ("xrdp", "RDP"),
];

/// Programs that are no administration, on ports of [`ADMINISTRATION`].
const OTHERS: [&str; 3] = ["jit-agent", "jit-controller", "prometheus"];

/// The findings.
pub(super) fn findings(seen: &Seen<'_>) -> Vec<Finding> {
    let mut open: BTreeMap<PortKey, Vec<&Listener>> = BTreeMap::new();
    for listener in &seen.listeners {
        let protected = seen.protected.contains_key(&listener.port);
        if !protected && !listener.address.is_loopback() && service(listener).is_some() {
            open.entry(listener.port).or_default().push(listener);
        }
    }
    let own = seen.config.and_then(|config| config.control.as_ref()).map(|one| one.listen.port());
    open.retain(|port, _| Some(port.port) != own);
    let mut findings: Vec<_> =
        open.iter().map(|(port, listeners)| unprotected(*port, listeners, seen)).collect();
    let unknown = seen.listeners.iter().any(|one| one.process.is_none());
    if !seen.is_root && unknown {
        findings.push(
            Finding::unseen(
                CHECK,
                "which programs listen is shown to root alone: sshd on another port than 22 would \
                 not be seen",
            )
            .fix("sudo jit-agent doctor"),
        );
    }
    if findings.is_empty() {
        let ok = "nothing by which hosts are administered listens on an unprotected port";
        findings.push(Finding::ok(CHECK, ok));
    }
    findings
}

/// What is administered by it; `None`: nothing that is known.
pub(super) fn service(listener: &Listener) -> Option<&'static str> {
    let PortKey { protocol: Protocol::Tcp, port } = listener.port else { return None };
    let process = listener.process.as_ref();
    let is = |program: &str| process.is_some_and(|process| process.is(program));
    if let Some((_, what)) = PROGRAMS.iter().find(|(program, _)| is(program)) {
        return Some(what);
    }
    known_for(port).filter(|_| !OTHERS.iter().any(|other| is(other)))
}

/// What a TCP port is known for; `None`: not for administration.
pub(super) fn known_for(port: u16) -> Option<&'static str> {
    let known = ADMINISTRATION.iter().find(|(first, last, _)| (*first..=*last).contains(&port));
    known.map(|(.., what)| *what)
}

fn unprotected(port: PortKey, listeners: &[&Listener], seen: &Seen<'_>) -> Finding {
    let what = listeners.iter().find_map(|one| service(one)).unwrap_or_default();
    let process = listeners.iter().find_map(|one| one.process.as_ref());
    let who = process.map_or_else(
        || "a process that only root sees".to_owned(),
        |process| format!("{} (process {})", process.name, process.id),
    );
    let open = match seen.config {
        Some(_) => "not protected",
        None => "not protected yet",
    };
    let text = port_text(port);
    let seen = format!(
        "{who} listens on {text} ({what}), which is {open}: everybody who reaches this host gets to it"
    );
    Finding::warning(CHECK, seen)
        .about(text)
        .fix(section(&port.port.to_string(), port.protocol, false))
        .fix("or let the service listen on 127.0.0.1 and ::1 alone, or stop it")
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{config, listener, port, seen},
        *,
    };
    use crate::oncall::finding::Level;

    fn of(protected: &str, listeners: &[Listener], is_root: bool) -> Vec<Finding> {
        let config = config(&port(protected, ""));
        findings(&Seen { listeners: listeners.to_vec(), is_root, ..seen(Some(&config)) })
    }

    #[test]
    fn a_listener_of_administration_without_protection_is_named_with_its_program() {
        for (at, process, says) in [
            (5985, Some("omiserver"), "omiserver (process 700) listens on 5985/tcp (WinRM),"),
            (3389, None, "a process that only root sees listens on 3389/tcp (RDP),"),
            (2222, Some("sshd"), "sshd (process 700) listens on 2222/tcp (SSH),"),
            (8022, Some("/usr/sbin/dropbear -p 8022"), "listens on 8022/tcp (SSH),"),
            (9090, Some("systemd"), "systemd (process 700) listens on 9090/tcp (Cockpit),"),
        ] {
            let all = of("22", &[listener(at, "::", process), listener(at, "0.0.0.0", None)], true);
            let [one] = all.as_slice() else { panic!("{at}: {all:?}") };
            assert_eq!((one.level, one.about.as_str()), (Level::Warning, &*format!("{at}/tcp")));
            assert!(one.seen.contains(says), "{}", one.seen);
            assert!(one.fix[0].contains(&format!("port = {at}, protocol = \"tcp\"")), "{one:?}");
        }
    }

    #[test]
    fn what_is_protected_or_local_or_no_administration_is_well() {
        for (at, address, process) in [
            (22, "0.0.0.0", Some("sshd")),
            (5985, "127.0.0.1", Some("omiserver")),
            (5985, "::1", None),
            (443, "0.0.0.0", Some("nginx")),
            (9090, "::", Some("prometheus")),
        ] {
            let all = of("22", &[listener(at, address, process)], true);
            assert!(matches!(&all[..], [one] if one.level == Level::Ok), "{at}: {all:?}");
        }
    }

    #[test]
    fn the_port_for_controllers_is_no_finding() {
        let control = "[control]\nlisten = \"0.0.0.0:9090\"\ncertificate = \"a\"\nkey = \"b\"\n\
                       client_ca = \"c\"\n";
        let config = config(control);
        let listeners = vec![listener(9090, "0.0.0.0", None)];
        let all = findings(&Seen { listeners, ..seen(Some(&config)) });
        assert!(matches!(&all[..], [one] if one.level == Level::Ok), "{all:?}");
    }

    #[test]
    fn without_root_the_ports_are_seen_and_what_is_not_is_said() {
        let all = of("22", &[listener(5985, "::", None), listener(2222, "::", None)], false);
        let levels: Vec<_> = all.iter().map(|one| one.level).collect();
        assert_eq!(levels, [Level::Warning, Level::Unseen], "{all:?}");
        assert!(all[1].seen.contains("shown to root alone"), "{all:?}");
    }

    #[test]
    fn before_there_is_a_configuration_nothing_is_protected_yet() {
        let listeners = vec![listener(22, "0.0.0.0", Some("sshd"))];
        let all = findings(&Seen { listeners, ..seen(None) });
        assert!(all[0].seen.contains("not protected yet"), "{all:?}");
    }
}
