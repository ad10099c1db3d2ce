//! What `doctor` finds of ports, listeners, translations, certificates and the ways around the gate,
//! each made in a namespace of the test; and nothing of them on a good host.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use jit_tests::{
    agent::{CLIENT, Site},
    programs::{binary, copy},
    sockets::listen,
};
use serde_json::Value;

/// The checks of this file.
const CHECKS: [&str; 14] = [
    "certificate",
    "client-ca",
    "controllers",
    "exemptions",
    "listeners",
    "local-ports",
    "no-listener",
    "private-key",
    "published-ports",
    "redirects",
    "route-localnet",
    "signers",
    "terminates",
    "ways-around",
];
/// Both kinds of iptables, for both families.
const TOOLS: [&str; 4] = ["iptables-legacy", "iptables-nft", "ip6tables-legacy", "ip6tables-nft"];
/// Longest wait for a program that the test starts.
const STARTED: Duration = Duration::from_secs(20);

/// A finding: check, level, what it is about, and everything that it says.
#[derive(Debug)]
struct Found {
    check: String,
    level: String,
    about: String,
    says: String,
}

fn findings(output: &Output) -> Vec<Found> {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{errors}"));
    let all = report["findings"].as_array().unwrap().iter();
    let word = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    all.map(|one| Found {
        check: word(one, "check"),
        level: word(one, "level"),
        about: word(one, "about"),
        says: format!("{} {}", one["seen"], one["fix"]),
    })
    .collect()
}

fn doctor(site: &Site) -> Vec<Found> {
    findings(&site.run(&["doctor", "--json"]))
}

/// Those that are not well, of the checks of this file.
fn bad(site: &Site) -> Vec<Found> {
    let mut all = doctor(site);
    all.retain(|one| CHECKS.contains(&one.check.as_str()) && one.level != "ok");
    all
}

/// Fails unless exactly this is found, with these words; the host must be well without it.
#[track_caller]
fn assert_found(site: &Site, check: &str, level: &str, about: &str, says: &[&str]) {
    let all = bad(site);
    let [one] = all.as_slice() else { panic!("not only {check} {about}: {all:#?}") };
    let found = (one.check.as_str(), one.level.as_str(), one.about.as_str());
    assert_eq!(found, (check, level, about), "{}", one.says);
    for says in says {
        assert!(one.says.contains(says), "{says}: {}", one.says);
    }
}

/// Runs a program in the host's namespace.
#[track_caller]
fn inside(site: &Site, line: &str) {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let output = site.host.run(|| command.args(words).output().unwrap());
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn nft(site: &Site, rule: &str) {
    inside(site, "nft add table inet t");
    inside(site, "nft add chain inet t p { type nat hook prerouting priority -100 ; }");
    inside(site, &format!("nft add rule inet t p {rule}"));
}

/// The configuration with these keys in the section of port 22, and these sections after it.
fn configure(site: &Site, keys: &str, sections: &str) {
    let text = site.base("[\"*\"]", "auto");
    site.write_config(&(text.replace("[[signer]]", &format!("{keys}\n[[signer]]")) + sections));
}

/// A program that is started for a test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A process of this name in the host's namespace that listens on a port, in a moment.
fn serve_as(site: &Site, name: &str, port: u16) -> Started {
    let script = format!(
        "import socket, sys\nopen('/proc/self/comm', 'w').write('{name}')\n\
         s = socket.create_server(('::', {port}), family=socket.AF_INET6, dualstack_ipv6=True)\n\
         print('listens', flush=True)\nsys.stdin.read()"
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = site.host.start(&mut command);
    let mut line = [0; 8];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    Started(child)
}

/// Certificates of a development CA for this name, as README makes them.
fn certify(site: &Site, name: &str, lasts: &str) {
    let _none = fs::remove_dir_all(site.path("pki"));
    let issue = format!("pki issue --dir pki --name agent --dns {name} --for {lasts}");
    for arguments in ["pki init --dir pki", &issue] {
        let mut jitctl = Command::new(binary("jitctl"));
        let output = jitctl.args(arguments.split(' ')).current_dir(site.path("")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    site.configure(
        "[control]\nlisten = \"0.0.0.0:7443\"\ncertificate = \"pki/agent.pem\"\n\
         key = \"pki/agent.key\"\nclient_ca = \"pki/ca.pem\"\n\
         [[controller]]\nidentity = \"c.example.org\"\nmay = [\"grant\"]\n",
    );
}

#[test]
fn a_good_host_has_none_of_these_findings() {
    let mut site = Site::new();
    certify(&site, "test-host.example.org", "90d");
    let before = bad(&site);
    assert!(before.is_empty(), "before the start: {before:#?}");
    site.start();
    site.admit(&CLIENT, Duration::from_secs(600));
    let found = doctor(&site);
    let wrong: Vec<_> = found
        .iter()
        .filter(|one| CHECKS.contains(&one.check.as_str()) && one.level != "ok")
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let seen: BTreeSet<_> = found.iter().map(|one| one.check.as_str()).collect();
    assert!(CHECKS.iter().all(|check| seen.contains(check)), "each is looked at: {seen:?}");
}

#[test]
fn a_listener_of_administration_without_protection_is_found() {
    let site = Site::new();
    let winrm = site.host.run(|| listen("[::]:5985".parse().unwrap()));
    let port = ["port = 5985, protocol = \\\"tcp\\\""];
    assert_found(&site, "listeners", "warning", "5985/tcp", &port);
    drop(winrm);
    let local = site.host.run(|| listen("127.0.0.1:5985".parse().unwrap()));
    assert!(bad(&site).is_empty(), "on loopback alone");
    drop(local);
    let sshd = serve_as(&site, "sshd", 2022);
    assert_found(&site, "listeners", "warning", "2022/tcp", &["sshd (process ", "SSH"]);
    drop(sshd);
    assert!(bad(&site).is_empty());
}

#[test]
fn before_the_installation_listeners_are_not_protected_yet() {
    let site = Site::new();
    fs::remove_file(site.config()).unwrap();
    let found = bad(&site);
    let listener = found.iter().find(|one| one.check == "listeners").unwrap();
    assert_eq!(listener.about, "22/tcp");
    assert!(listener.says.contains("is not protected yet"), "{}", listener.says);
}

#[test]
fn a_redirect_to_a_protected_port_is_found() {
    let site = Site::new();
    nft(&site, "tcp dport 2222 redirect to :22");
    let says = ["leads to this host's 22/tcp", "nft list chain inet t p", "port = 2222"];
    assert_found(&site, "redirects", "warning", "2222/tcp", &says);
    inside(&site, "nft delete table inet t");
    nft(&site, "ip daddr 198.51.100.1 dnat ip to tcp dport map { 2222 : 198.51.100.1 . 22 }");
    assert_found(&site, "redirects", "warning", "2222/tcp", &says);
    inside(&site, "nft delete table inet t");
    for tool in TOOLS {
        let rule = "PREROUTING -p tcp --dport 2222 -j REDIRECT --to-ports 22";
        inside(&site, &format!("{tool} -t nat -A {rule}"));
        let says = ["leads to this host's 22/tcp", &format!("{tool} -t nat -S PREROUTING")];
        assert_found(&site, "redirects", "warning", "2222/tcp", &says);
        inside(&site, &format!("{tool} -t nat -D {rule}"));
        assert!(bad(&site).is_empty(), "{tool}");
    }
}

/// What the finding says of the redirect is so.
#[test]
fn without_the_guard_a_redirect_to_a_protected_port_is_open() {
    let mut site = Site::new();
    let text = site.base("[\"*\"]", "auto");
    site.write_config(&text.replace("[gate]", "[gate]\nsocket_guard = false"));
    nft(&site, "tcp dport 2222 redirect to :22");
    site.start();
    assert!(site.client_gets_in(0, 2222) && !site.client_opens(0, 22));
    assert_found(&site, "redirects", "failure", "2222/tcp", &["nothing closes it"]);
}

#[test]
fn a_service_behind_a_protected_port_that_is_open_itself_is_found() {
    let mut site = Site::new();
    site.serve(2022);
    nft(&site, "iifname c0 tcp dport 22 redirect to :2022");
    site.start();
    assert!(site.client_gets_in(0, 2022) && !site.client_opens(0, 22));
    let says = ["22/tcp is protected and leads to 2022/tcp, which is not"];
    assert_found(&site, "redirects", "warning", "2022/tcp", &says);
}

#[test]
fn where_a_protected_port_ends_is_compared_with_the_configuration() {
    let site = Site::new();
    nft(&site, "tcp dport 22 dnat ip to 172.17.0.2:22");
    let says = ["22/tcp leads to 172.17.0.2", "terminates = \\\"forwarded\\\""];
    assert_found(&site, "terminates", "warning", "22/tcp", &says);
    configure(&site, "terminates = \"forwarded\"", "");
    assert!(bad(&site).is_empty());
    inside(&site, "nft delete table inet t");
    let says = ["said to be forwarded", "terminates = \\\"host\\\""];
    assert_found(&site, "terminates", "warning", "22/tcp", &says);
    nft(&site, "tcp dport 22 redirect to :22");
    let says = ["22/tcp leads to this host itself", "terminates = \\\"host\\\""];
    assert_found(&site, "terminates", "warning", "22/tcp", &says);
}

/// As Docker publishes a port.
#[test]
fn a_published_container_port_is_found() {
    let site = Site::new();
    for tool in ["iptables-legacy", "iptables-nft"] {
        for rule in [
            "-N DOCKER",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-A DOCKER -i docker0 -j RETURN",
            "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80",
            "-A DOCKER -d 127.0.0.1/32 ! -i docker0 -p tcp --dport 8081 -j DNAT --to-destination \
             172.17.0.2:81",
        ] {
            inside(&site, &format!("{tool} -t nat {rule}"));
        }
        let says = ["published to 172.17.0.2, port 80", "terminates = \\\"forwarded\\\""];
        assert_found(&site, "published-ports", "warning", "8080/tcp", &says);
        let protects = "[[port]]\nport = 8080\nprotocol = \"tcp\"\nsources = [\"::/0\"]\n\
                        terminates = \"forwarded\"\n";
        configure(&site, "", protects);
        assert!(bad(&site).is_empty(), "{tool}");
        site.configure("");
        for rule in ["-F PREROUTING", "-F DOCKER", "-X DOCKER"] {
            inside(&site, &format!("{tool} -t nat {rule}"));
        }
    }
    let proxy = serve_as(&site, "docker-proxy", 8080);
    assert_found(&site, "published-ports", "warning", "8080/tcp", &["by docker-proxy"]);
    drop(proxy);
}

#[test]
fn an_interface_that_routes_loopback_from_outside_is_found() {
    let site = Site::new();
    site.host.sysctl("ipv4/conf/c0/route_localnet", "1");
    let says = ["sysctl -w net/ipv4/conf/c0/route_localnet=0"];
    assert_found(&site, "route-localnet", "warning", "c0", &says);
    inside(&site, "sysctl -w net/ipv4/conf/c0/route_localnet=0");
    assert!(bad(&site).is_empty(), "the fix ends it");
}

#[test]
fn a_protected_port_that_the_kernel_gives_away_is_found() {
    let site = Site::new();
    site.serve(40_000);
    configure(&site, "", "[[port]]\nport = 40000\nprotocol = \"tcp\"\nsources = [\"::/0\"]\n");
    let says = ["sysctl -w net.ipv4.ip_local_reserved_ports=40000"];
    assert_found(&site, "local-ports", "warning", "40000/tcp", &says);
    inside(&site, "sysctl -w net.ipv4.ip_local_reserved_ports=40000");
    assert!(bad(&site).is_empty(), "the fix ends it");
}

#[test]
fn a_protected_port_without_a_listener_is_found() {
    let site = Site::new();
    let section = |protocol: &str| {
        format!("[[port]]\nport = 3389\nprotocol = \"{protocol}\"\nsources = [\"::/0\"]\n")
    };
    configure(&site, "", &section("tcp"));
    assert_found(&site, "no-listener", "warning", "3389/tcp", &["nothing listens on 3389/tcp"]);
    configure(&site, "", &section("udp"));
    assert_found(&site, "no-listener", "warning", "3389/udp", &["nothing listens on 3389/udp"]);
    let socket = site.host.run(|| std::net::UdpSocket::bind(("::", 3389)).unwrap());
    assert!(bad(&site).is_empty());
    drop(socket);
}

#[test]
fn exemptions_that_cover_everybody_are_found() {
    let site = Site::new();
    let exempt = |source: &str, until: &str| {
        let entry = format!("source = \"{source}\", reason = \"all\", owner = \"netops\"{until}");
        configure(&site, &format!("exempt = [{{ {entry} }}]"), "");
    };
    exempt("0.0.0.0/0", "");
    let says = ["cover every IPv4 address: it is open"];
    assert_found(&site, "exemptions", "failure", "22/tcp", &says);
    exempt("0.0.0.0/0", ", until = \"2020-01-01T00:00:00Z\"");
    assert_found(&site, "exemptions", "warning", "22/tcp", &["has ended"]);
    exempt("192.0.2.7", "");
    assert!(bad(&site).is_empty());
}

#[test]
fn certificates_that_a_controller_refuses_are_found() {
    let site = Site::new();
    certify(&site, "other.example.org", "90d");
    assert_found(
        &site,
        "certificate",
        "warning",
        "names",
        &["for other.example.org, and this host"],
    );
    certify(&site, "test-host", "3d");
    assert_found(&site, "certificate", "warning", "", &["ends in 2d"]);
    certify(&site, "test-host", "90d");
    let key = site.path("pki/agent.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert_found(&site, "private-key", "failure", "", &["others can read it", "chmod o= "]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(bad(&site).is_empty());
    let good = fs::read_to_string(site.path("pki/ca.pem")).unwrap();
    fs::write(site.path("pki/ca.pem"), fs::read_to_string(site.path("pki/agent.pem")).unwrap())
        .unwrap();
    assert_found(&site, "client-ca", "failure", "", &["no authority's certificate"]);
    fs::write(site.path("pki/ca.pem"), good).unwrap();
    let text = fs::read_to_string(site.config()).unwrap();
    site.write_config(text.split("[[controller]]").next().unwrap());
    assert_found(&site, "controllers", "warning", "", &["nobody may connect"]);
}

#[test]
fn signers_that_do_not_count_are_found() {
    let site = Site::new();
    let text = site.base("[\"*\"]", "auto");
    let window =
        |until: &str| text.replace("[paths]", &format!("not_after = \"{until}\"\n[paths]"));
    site.write_config(&window("2020-01-01T00:00:00Z"));
    let found = bad(&site);
    assert!(found.iter().all(|one| one.check == "signers"), "{found:#?}");
    assert!(found.iter().any(|one| one.level == "failure" && one.says.contains("nothing can be")));
    site.write_config(&window("2120-01-01T00:00:00Z"));
    assert!(bad(&site).is_empty());
    fs::remove_file(site.path("signer.pem")).unwrap();
    let found = bad(&site);
    assert!(found.iter().all(|one| one.check == "signers"), "{found:#?}");
    assert!(found.iter().any(|one| one.level == "failure" && one.about == "test"), "{found:#?}");
}

#[test]
fn an_agent_that_lets_people_in_past_the_gate_is_found() {
    let site = Site::new();
    let program = site.path("amazon-ssm-agent");
    copy(Path::new("/bin/sleep"), &program);
    let running = Started(site.host.start(Command::new(&program).arg("60")));
    let began = Instant::now();
    while bad(&site).is_empty() {
        assert!(began.elapsed() < STARTED, "the process is found");
    }
    let says = ["Session Manager", "systemctl disable --now amazon-ssm-agent"];
    assert_found(&site, "ways-around", "warning", "amazon-ssm-agent", &says);
    drop(running);
    assert!(bad(&site).is_empty());
}

/// Nobody but root sees rules and the programs of others.
#[test]
fn without_root_what_cannot_be_seen_is_said() {
    let site = Site::new();
    let program = site.path("jit-agent");
    copy(&binary("jit-agent"), &program);
    for (path, mode) in [(site.path(""), 0o755), (site.config(), 0o644), (program.clone(), 0o755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let winrm = site.host.run(|| listen("[::]:5985".parse().unwrap()));
    let output = site.host.run(|| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "64999", "--regid", "64999", "--clear-groups"]);
        command.args(["--inh-caps=-all", "--bounding-set=-all"]).arg(&program);
        command.args(["doctor", "--json", "--config"]).arg(site.config()).output().unwrap()
    });
    drop(winrm);
    let all = findings(&output);
    let levels = |check: &str| -> Vec<_> {
        let of_it = all.iter().filter(|one| one.check == check);
        of_it.map(|one| one.level.as_str()).collect()
    };
    assert_eq!(levels("redirects"), ["unseen"], "{all:#?}");
    assert_eq!(levels("listeners"), ["warning", "unseen"], "{all:#?}");
    assert_eq!(levels("route-localnet"), ["ok"], "{all:#?}");
}
