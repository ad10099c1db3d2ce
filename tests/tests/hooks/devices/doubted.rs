//! What cannot hold on a device whose packets pass a program on another one first: `check` names
//! it, it is so, and what `check` says to paste mends it.

use std::{
    io::Read as _,
    net::{Ipv6Addr, SocketAddrV6, TcpStream},
    process::Output,
    thread,
    time::{Duration, Instant},
};

use jit_proto::v1::revoke_request::What;
use jit_tests::{
    agent::{PATIENCE, Site, carries},
    netns::Namespace,
    sockets,
};
use rustix::process::Signal;

use super::{BUNDLES, Device, LONG, OTHERS, SETTLED, kinds::BRIDGE, make};

/// Where the services that are bound to a device listen.
const PORT: u16 = 23;

/// One of each way to be above another device. Two devices are below QinQ's, and no packet passes
/// a program on a VRF or a child in mode L3S.
const CHOSEN: [&str; 6] =
    ["bridge", "bond active-backup", "QinQ", "VRF", "ipvlan L3S", "macvlan bridge"];

/// The start of each warning.
const BOUND: &str = "warning: bound to the device ";
const LINK_LOCAL: &str = "warning: IPv6 link-local on ";
const VRF: &str = "does not find sessions in the VRF ";

/// The warnings of `check` about devices.
fn warnings(site: &Site) -> Vec<String> {
    let Output { status, stdout, stderr } = site.run(&["check"]);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let text = String::from_utf8(stdout).unwrap();
    assert!(!text.contains("cannot"), "{text}");
    let ours =
        |line: &&str| line.starts_with(BOUND) || line.starts_with(LINK_LOCAL) || line.contains(VRF);
    text.lines().filter(ours).map(str::to_owned).collect()
}

/// A configuration with these entries of `exclude`.
fn configure(site: &Site, exclude: &str) {
    let gate = format!("[gate]\nexclude = [{exclude}]");
    let port = format!(
        "[[port]]\nport = {PORT}\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n"
    );
    site.write_config(&(site.base("[\"*\"]", "auto").replace("[gate]", &gate) + &port));
}

/// The warnings, once there is one for each device.
#[track_caller]
fn expected(site: &Site, devices: &[Device]) -> Vec<String> {
    let end = Instant::now() + SETTLED;
    loop {
        let warnings = warnings(site);
        let missing = devices.iter().find(|device| {
            let [above, ..] = device.names();
            let has = |text: &str| warnings.iter().any(|line| line.contains(text));
            let bound = |start: &str, at: &str| has(&format!("{start}{above} {at}{PORT}/tcp"));
            match device.kind.name {
                "VRF" => !bound(VRF, "(now: "),
                // It has the address of its parent, and the kernel may not let it have it.
                "ipvlan L3S" => !bound(BOUND, "(SO_BINDTODEVICE): "),
                _ => {
                    !bound(BOUND, "(SO_BINDTODEVICE): ") || !has(&format!("{LINK_LOCAL}{above}: "))
                }
            }
        });
        let Some(missing) = missing else { return warnings };
        assert!(Instant::now() < end, "{}: {warnings:#?}", missing.kind.name);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Opens a session of the user to each service, and one to the bridge's link-local address.
#[track_caller]
fn open(site: &Site, devices: &[Device]) -> Vec<(&'static str, TcpStream)> {
    let end = Instant::now() + SETTLED;
    let mut sessions = Vec::new();
    for device in devices {
        let mut attempt = |name, connect: &dyn Fn() -> Option<TcpStream>| loop {
            if let Some(stream) = connect() {
                break sessions.push((name, stream));
            }
            assert!(Instant::now() < end, "{name} is closed\n{}", site.log());
        };
        attempt(device.kind.name, &|| device.connect(site, 0, 2, PORT));
        if device.kind.name == "bridge" {
            attempt("link-local", &|| connect_link_local(site, device));
        }
    }
    sessions
}

/// The link-local address that the kernel makes from the hardware address (RFC 4291, appendix A).
fn link_local(namespace: &Namespace, device: &str) -> Ipv6Addr {
    let [a, b, c, d, e, f] = namespace.mac(device);
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&[0xfe, 0x80]);
    bytes[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    bytes.into()
}

/// Connects from the other end's link-local address to the host's.
fn connect_link_local(site: &Site, device: &Device) -> Option<TcpStream> {
    let ([above, ..], [_, far, ..]) = (device.names(), device.far_names());
    let scope = site.stranger.index(&far);
    let at = |ip, port| SocketAddrV6::new(ip, port, 0, scope).into();
    let (from, to) = (link_local(&site.stranger, &far), link_local(&site.host, &above));
    site.stranger.run(|| {
        let mut stream = sockets::connect_from(at(from, 0), at(to, PORT), PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 2]).ok()?;
        Some(stream)
    })
}

/// Sessions under a grant that is then revoked: the names of those that go on.
#[track_caller]
fn go_on(site: &mut Site, devices: &[Device]) -> Vec<&'static str> {
    site.start();
    let mut sources: Vec<_> = devices.iter().map(|device| device.address(0, 2)).collect();
    let bridge = devices.iter().find(|device| device.kind.name == "bridge");
    sources.extend(bridge.map(|bridge| {
        let [_, far, ..] = bridge.far_names();
        link_local(&site.stranger, &far).to_string()
    }));
    let sources: Vec<_> = sources.iter().map(String::as_str).collect();
    let mut grant = site.grant(&sources, LONG);
    for range in &mut grant.ports {
        (range.first, range.last) = (PORT.into(), PORT.into());
    }
    site.push(site.sign(&grant)).unwrap();
    let mut sessions = open(site, devices);
    assert_eq!(site.revoke(What::All(true), false).revoked, 1);
    let going = thread::scope(|scope| {
        let asked: Vec<_> = sessions
            .iter_mut()
            .map(|(name, stream)| scope.spawn(|| carries(stream).then_some(*name)))
            .collect();
        asked.into_iter().filter_map(|one| one.join().unwrap()).collect()
    });
    site.end(Signal::TERM);
    assert_eq!(site.run(&["detach", "--yes"]).status.code(), Some(0));
    going
}

#[test]
fn what_check_doubts_of_a_device_is_so_and_what_it_says_mends_it() {
    let mut site = Site::new();
    configure(&site, "");
    assert_eq!(warnings(&site), [""; 0], "a plain host");
    let kinds = [BRIDGE].into_iter().chain(BUNDLES).chain(OTHERS);
    let devices = make(&site, kinds.filter(|kind| CHOSEN.contains(&kind.name)));
    for device in &devices {
        site.serve_on(&device.names()[0], PORT);
    }
    let doubts = expected(&site, &devices);
    assert_eq!(go_on(&mut site, &devices), [""; 0], "{doubts:#?}");
    let mut exclude: Vec<_> = doubts
        .iter()
        .flat_map(|doubt| doubt.split_once("add to [gate] exclude: ").unwrap().1.split("}, "))
        .map(|entry| format!("{}}}", entry.trim_end_matches('}')))
        .collect();
    exclude.sort();
    exclude.dedup();
    configure(&site, &exclude.join(", "));
    assert_eq!(warnings(&site), [""; 0], "as it says: {exclude:?}");
    let going = go_on(&mut site, &devices);
    assert_eq!(going.len(), devices.len() + 1, "{going:?}");
}
