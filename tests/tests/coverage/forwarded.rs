//! Packets that the host forwards to another network namespace, as to a container: the host has no
//! socket for them, so the guard does not see them. The packet gate closes the port where the
//! packets come in.

use std::{net::TcpStream, process::Command};

use jit_proto::v1::revoke_request::What;
use jit_tests::{
    agent::{PATIENCE, STRANGER, Site, TO_STRANGER, address, carries},
    netns::Namespace,
};

use crate::path::{self, Path, serve};

const CONTAINER: [u8; 2] = *b"in";

/// Without an agent the port is open and the container greets. Then the port is gated, and a
/// session continues in drain.
fn assert_gated(site: &mut Site, path: &Path) {
    path.assert_open(site, "without an agent");
    let greetings = path.greetings(site, PATIENCE);
    assert_eq!(greetings, [Some(CONTAINER); 2], "the container answers");
    let config = site.base("[\"*\"]", "auto");
    site.write_config(&config.replace("port = 22", "port = 22\nterminates = \"forwarded\""));
    site.start();
    path.assert_gated(site, "to another namespace");
    site.admit(&path.from, path::LONG);
    let mut sessions = [0, 1].map(|family| {
        let to = address(path.to, family, 22);
        let mut session = site.stranger.run(|| TcpStream::connect(to).unwrap());
        std::io::Read::read_exact(&mut session, &mut [0; 2]).unwrap();
        session
    });
    site.revoke_all();
    path.assert_closed(site, "after the revocation");
    for session in &mut sessions {
        assert!(carries(session), "a session continues in drain");
    }
    let answer = site.revoke(What::All(true), true);
    let said =
        "port 22 is forwarded, so its sessions are not counted: the gate drops their packets";
    assert!(answer.warning.starts_with(said), "{answer:?}");
    for session in &mut sessions {
        assert!(!carries(session), "a session that was ordered to end");
    }
}

#[test]
fn what_is_translated_to_another_namespace_is_gated() {
    let container = Namespace::new();
    let mut site = Site::new();
    site.host.connect(
        "d0",
        &["198.18.6.1/24", "2001:db8:18:6::1/64"],
        &container,
        "e0",
        &["198.18.6.2/24", "2001:db8:18:6::2/64"],
    );
    container.ip(&["route", "add", "default", "via", "198.18.6.1"]);
    container.ip(&["-6", "route", "add", "default", "via", "2001:db8:18:6::1"]);
    serve(&container, 80, CONTAINER);
    site.host.sysctl("ipv4/ip_forward", "1");
    site.host.sysctl("ipv6/conf/all/forwarding", "1");
    for rule in [
        "add table inet t",
        "add chain inet t p { type nat hook prerouting priority dstnat ; }",
        "add rule inet t p iifname s0 tcp dport 22 dnat ip to 198.18.6.2:80",
        "add rule inet t p iifname s0 tcp dport 22 dnat ip6 to [2001:db8:18:6::2]:80",
    ] {
        nft(&site.host, rule);
    }
    assert_gated(&mut site, &Path { from: STRANGER, to: TO_STRANGER });
}

#[test]
fn a_macvlan_child_in_another_namespace_is_gated() {
    let container = Namespace::new();
    let path =
        Path { from: ["198.18.7.2", "2001:db8:18:7::2"], to: ["198.18.7.1", "2001:db8:18:7::1"] };
    let mut site = Site::new();
    site.stranger.address("p0", &format!("{}/24", path.from[0]));
    site.stranger.address("p0", &format!("{}/64", path.from[1]));
    let name = container.name();
    site.host
        .ip_batch(&format!("link add link s0 name m0 netns {name} type macvlan mode bridge\n"));
    container.address("m0", &format!("{}/24", path.to[0]));
    container.address("m0", &format!("{}/64", path.to[1]));
    container.ip(&["link", "set", "m0", "up"]);
    serve(&container, 22, CONTAINER);
    assert_gated(&mut site, &path);
}

pub(crate) fn nft(namespace: &Namespace, rule: &str) {
    let file = format!("/run/netns/{}", namespace.name());
    let output =
        Command::new("nsenter").arg(format!("--net={file}")).args(["nft", rule]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "nft {rule}: {errors}");
}
