//! Who gets through to the agent over TLS, and who does not. (What the agent answers a controller
//! is in the tests of `controllers`.)

use std::{
    net::SocketAddr,
    process::{Command, Output},
    time::Duration,
};

use jit_tests::{
    agent::{CLIENT, HOST, Site},
    programs::binary,
    sockets::connect_from,
};

const CONTROLLER: &str = "spiffe://example.org/controller";
const READER: &str = "spiffe://example.org/reader";

/// A site whose agent listens for controllers, with certificates of two authorities.
pub(crate) fn site() -> Site {
    let mut site = Site::new();
    for directory in ["pki", "foreign"] {
        jitctl(&site, &["pki", "init", "--dir", directory]);
        for (name, uri) in
            [("controller", CONTROLLER), ("reader", READER), ("nobody", "spiffe://example.org/x")]
        {
            jitctl(&site, &["pki", "issue", "--dir", directory, "--name", name, "--uri", uri]);
        }
    }
    let agent = ["pki", "issue", "--dir", "pki", "--name", "agent", "--ip", "198.51.100.1"];
    jitctl(&site, &agent);
    jitctl(&site, &["keygen", "--algorithm", "p256", "--out", "signing"]);
    site.configure(&format!(
        r#"
[control]
listen = "0.0.0.0:7443"
certificate = "pki/agent.pem"
key = "pki/agent.key"
client_ca = "pki/ca.pem"
[[controller]]
identity = "{CONTROLLER}"
may = ["grant", "revoke", "read"]
[[controller]]
identity = "{READER}"
may = ["read"]
[[signer]]
id = "p256"
public_key = "signing.pub.pem"
"#
    ));
    site.start();
    site
}

/// Runs `jitctl` in the scratch directory and the client's namespace; panics unless it succeeds.
pub(crate) fn jitctl(site: &Site, arguments: &[&str]) -> Output {
    let output = try_jitctl(site, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "jitctl {arguments:?}: {errors}");
    output
}

fn try_jitctl(site: &Site, arguments: &[&str]) -> Output {
    site.client.run(|| {
        let mut command = Command::new(binary("jitctl"));
        command.args(arguments).current_dir(site.path("")).output().unwrap()
    })
}

/// A call to the agent as one of the controllers.
pub(crate) fn call(
    site: &Site,
    ca: &str,
    authority: &str,
    name: &str,
    arguments: &[&str],
) -> Output {
    let (cert, key) = (format!("{authority}/{name}.pem"), format!("{authority}/{name}.key"));
    let agent = ["--agent", "198.51.100.1:7443", "--ca", ca, "--cert", &cert, "--key", &key];
    try_jitctl(site, &[&agent, arguments].concat())
}

/// The same at another port, as one of the controllers of the agent's own authority.
pub(crate) fn call_at(site: &Site, port: u16, name: &str, arguments: &[&str]) -> Output {
    let (agent, cert) = (format!("198.51.100.1:{port}"), format!("pki/{name}.pem"));
    let key = format!("pki/{name}.key");
    let how = ["--agent", &agent, "--ca", "pki/ca.pem", "--cert", &cert, "--key", &key];
    try_jitctl(site, &[&how, arguments].concat())
}

/// The arguments of a grant for ten minutes.
pub(crate) fn grant<'a>(source: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["grant", "--signing-key", "signing.key", "--host", HOST];
    arguments.extend(["--source", source, "--port", "22/tcp", "--for", "10m"]);
    arguments.extend(["--requester", "ana@example.org", "--why", "disk full"]);
    arguments.extend(extra);
    arguments
}

#[track_caller]
fn assert_refused(output: &Output, code: i32, says: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(says), "{says:?} is not in: {errors}");
}

#[test]
fn a_controller_may_do_only_what_its_table_says() {
    let site = site();
    let reader = |arguments: &[&str]| call(&site, "pki/ca.pem", "pki", "reader", arguments);
    assert!(reader(&["list"]).status.success());
    assert_refused(&reader(&grant(CLIENT[0], &[])), 77, "not_permitted");
    assert_refused(&reader(&["revoke", "--all", "--yes", "--reason", "x"]), 77, "not_permitted");
    // Who is in no `[[controller]]` gets no connection.
    let nobody = |arguments: &[&str]| call(&site, "pki/ca.pem", "pki", "nobody", arguments);
    assert_refused(&nobody(&["list"]), 77, "not_permitted");
    let agent = call(&site, "pki/ca.pem", "pki", "agent", &["list"]);
    assert_refused(&agent, 77, "not_permitted");
    site.assert_closed_to_all();
    let output = site.run(&["audit", "show", "--code", "N001", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let of = |who: &str| text.lines().filter(|line| line.contains(who)).count();
    assert!(of(READER) == 2 && of("spiffe://example.org/x") >= 1, "both are in the audit: {text}");
}

#[test]
fn certificates_of_another_authority_are_refused_on_both_sides() {
    let site = site();
    let theirs = call(&site, "pki/ca.pem", "foreign", "controller", &["list"]);
    assert_refused(&theirs, 69, "certificate");
    let ours = call(&site, "foreign/ca.pem", "pki", "controller", &["list"]);
    assert_refused(&ours, 69, "certificate");
    site.assert_closed_to_all();
}

/// A certificate with a controller's name that is for servers alone.
#[test]
fn a_certificate_that_is_not_for_clients_is_refused_whatever_its_name() {
    let site = site();
    for (name, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
        let make = format!(
            "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -keyout pki/{name}.key -out {name}.csr -subj /CN={name} 2>&1 && \
             printf 'subjectAltName=URI:{CONTROLLER}\nextendedKeyUsage={usage}\n' > {name}.ext && \
             openssl x509 -req -in {name}.csr -CA pki/ca.pem -CAkey pki/ca.key -CAcreateserial \
             -days 1 -extfile {name}.ext -out pki/{name}.pem 2>&1"
        );
        let output = Command::new("sh").args(["-ec", &make]).current_dir(site.path("")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_refused(&call(&site, "pki/ca.pem", "pki", "server", &["list"]), 69, "");
    assert!(call(&site, "pki/ca.pem", "pki", "client", &["list"]).status.success());
}

/// `openssl s_client` as a foreign peer.
fn openssl(site: &Site, arguments: &[&str]) -> String {
    openssl_at(site, 7443, arguments)
}

/// The same at another port.
pub(crate) fn openssl_at(site: &Site, port: u16, arguments: &[&str]) -> String {
    let agent = format!("198.51.100.1:{port}");
    let output = site.client.run(|| {
        Command::new("timeout")
            .args(["10", "openssl", "s_client", "-connect", &agent])
            .args(["-CAfile", "pki/ca.pem", "-alpn", "h2", "-ign_eof"])
            .args(arguments)
            .current_dir(site.path(""))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    });
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn tls_1_2_and_clients_without_a_certificate_are_turned_away() {
    let site = site();
    let certificate = ["-cert", "pki/controller.pem", "-key", "pki/controller.key"];
    let old = openssl(&site, &[&["-tls1_2"][..], &certificate].concat());
    assert!(old.contains("alert protocol version"), "{old}");
    let bare = openssl(&site, &["-tls1_3"]);
    assert!(bare.contains("certificate required"), "{bare}");
    let log = site.log();
    let lines = log.matches("TLS handshake failed").count();
    assert_eq!(lines, 1, "one line a network and minute: {log}");
    // The agent still serves good controllers.
    let listed = call(&site, "pki/ca.pem", "pki", "controller", &["list"]);
    assert!(listed.status.success());
}

#[test]
fn silent_connections_do_not_keep_a_controller_out() {
    let site = site();
    let sources: Vec<_> = (100..120).map(|last| format!("203.0.113.{last}")).collect();
    for source in &sources {
        site.stranger.address("p0", &format!("{source}/24"));
    }
    let agent = "203.0.113.1:7443".parse().unwrap();
    let from = |source: &String| {
        connect_from(SocketAddr::new(source.parse().unwrap(), 0), agent, Duration::from_millis(500))
    };
    // More connections than there are places, from one source and from many, the same number from
    // each.
    let silent: Vec<_> = site.stranger.run(|| {
        let one = std::iter::repeat_n(&sources[0], 300);
        one.chain(sources.iter().cycle().take(600)).filter_map(|source| from(source).ok()).collect()
    });
    assert!(silent.len() > 600, "{}", silent.len());
    for _ in 0..3 {
        let began = std::time::Instant::now();
        let listed = call(&site, "pki/ca.pem", "pki", "controller", &["list"]);
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[test]
fn the_gate_does_not_wait_for_the_address_that_it_listens_on() {
    let mut site = site();
    site.end(rustix::process::Signal::TERM);
    let config = std::fs::read_to_string(site.config()).unwrap();
    site.write_config(&config.replace("0.0.0.0:7443", "198.51.100.77:7443"));
    site.start();
    site.assert_closed_to_all();
    site.host.address("c0", "198.51.100.77/24");
    let address = "198.51.100.77:7443".parse().unwrap();
    let connected =
        site.client.run(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)));
    assert!(connected.is_ok());
}
