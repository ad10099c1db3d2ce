//! Pushed policies and the table of controllers, with a real agent, `jitctl`, and connections.

use std::{
    fs,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jit_client::local;
use jit_proto::v1::{self, jit_agent_client::JitAgentClient};
use jit_tests::{
    agent::{CLIENT, HOST, TO_CLIENT},
    programs::binary,
};
use prost::Message as _;
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tonic::transport::{Channel, Endpoint};

use crate::controlled::{Controlled, PORT};

/// The file leaves port 22 open to all and lets a policy arm it. The file protects 2222.
const POLICY: &str = r#"
hosts = ["test-host"]
[[port]]
port = 2222
protocol = "tcp"
sources = ["0.0.0.0/0", "::/0"]
[[port]]
port = 22
protocol = "tcp"
sources = ["0.0.0.0/0", "::/0"]
"#;

fn controlled() -> Controlled {
    let controlled = Controlled::with_signers(|_| Vec::new());
    let site = &controlled.site;
    controlled.bare_jitctl("keygen --algorithm ed25519 --out release").good();
    edit(&controlled, |text| {
        let text = text.replace("port = 22\n", "port = 2222\n");
        let may = r#"may = ["grant", "revoke", "read""#;
        let text = text.replace(&format!("{may}]"), &format!("{may}, \"policy\"]"));
        text + r#"
[[signer]]
id = "release"
public_key = "release.pub.pem"
signs = ["policy"]
[ceiling]
arm = ["22"]
sources = ["0.0.0.0/0", "::/0"]
drain = true
"#
    });
    fs::write(site.path("policy.toml"), POLICY).unwrap();
    site.serve(2222);
    controlled
}

/// Changes the configuration and reloads it. Panics unless the agent accepts it.
fn edit(controlled: &Controlled, change: impl FnOnce(String) -> String) {
    let site = &controlled.site;
    let reloads = || site.log().matches(" reloaded").count();
    let before = reloads();
    site.write_config(&change(fs::read_to_string(site.config()).unwrap()));
    site.signal(Signal::HUP);
    wait_for("the reload", || reloads() > before);
}

#[track_caller]
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen within 60 s");
        thread::sleep(Duration::from_millis(50));
    }
}

fn push(controlled: &Controlled, more: &str) -> Value {
    let files = "policy push policy.toml --signing-key release.key --why CHG-1";
    let said = controlled.jitctl(&format!("{files} --json {more}")).good();
    serde_json::from_str(&said).unwrap()
}

fn shown(controlled: &Controlled) -> Value {
    serde_json::from_str(&controlled.jitctl("policy show --json").good()).unwrap()
}

/// Whether port 22 is open to somebody without a grant.
fn is_open(controlled: &Controlled) -> bool {
    let open = controlled.site.stranger_opens(0, 22);
    assert_eq!(controlled.site.stranger_opens(1, 22), open, "both families");
    assert!(!controlled.site.stranger_opens(0, 2222), "a port that the file protects stays closed");
    open
}

#[test]
fn a_port_armed_by_a_push_is_open_again_when_nobody_confirms() {
    let controlled = controlled();
    assert!(is_open(&controlled));
    let began = Instant::now();
    let answer = push(&controlled, "--confirm-within 12s");
    assert_eq!(answer["reason"], "pending");
    assert_eq!(answer["changes"]["closed"][0], "22/tcp");
    assert!(!is_open(&controlled));
    assert!(controlled.jitctl("status").good().contains("is not confirmed"));
    wait_for("the return", || controlled.site.stranger_opens(0, 22));
    let after = began.elapsed();
    assert!(is_open(&controlled));
    assert!((Duration::from_secs(12)..Duration::from_secs(30)).contains(&after), "{after:?}");
    let state = shown(&controlled);
    assert_eq!((&state["version"], &state["highest_version"]), (&0.into(), &1.into()));
    controlled.jitctl("policy confirm --version 1").fails(77, "refused: nothing_pending: ");
    controlled.jitctl("policy confirm").fails(77, "refused: nothing_pending: ");
    let audit = controlled.site.run(&["audit", "show"]).stdout;
    let audit = String::from_utf8_lossy(&audit);
    for code in ["P001", "P002", "P004"] {
        assert!(audit.contains(code), "{code} is not in the audit: {audit}");
    }
}

#[test]
fn an_armed_port_is_open_again_also_when_the_agent_is_killed_inside_the_window() {
    let mut controlled = controlled();
    let began = Instant::now();
    push(&controlled, "--confirm-within 20s");
    controlled.site.end(Signal::KILL);
    assert!(!is_open(&controlled), "the kernel keeps the port closed meanwhile");
    controlled.site.start();
    assert!(!is_open(&controlled));
    assert_eq!(shown(&controlled)["version"], 1);
    wait_for("the return", || controlled.site.stranger_opens(0, 22));
    let after = began.elapsed();
    assert!(is_open(&controlled));
    assert!((Duration::from_secs(20)..Duration::from_secs(40)).contains(&after), "{after:?}");
    // The time may also end while no agent runs.
    push(&controlled, "--confirm-within 1s");
    controlled.site.end(Signal::KILL);
    thread::sleep(Duration::from_millis(1200));
    assert!(!is_open(&controlled), "the kernel does not know the time limit");
    controlled.site.start();
    assert!(is_open(&controlled));
}

#[test]
fn a_confirmed_policy_stays() {
    let mut controlled = controlled();
    push(&controlled, "--confirm-within 10s");
    assert_eq!(controlled.jitctl("policy confirm").good().lines().count(), 1);
    controlled.site.end(Signal::KILL);
    thread::sleep(Duration::from_millis(10_500));
    controlled.site.start();
    assert!(!is_open(&controlled));
    assert!(controlled.jitctl("policy confirm --version 1").good().contains("already"));
    // `--confirm` pushes and confirms in one command. The shown policy can be pushed again.
    let text = controlled.jitctl("policy show").good();
    fs::write(controlled.site.path("policy.toml"), format!("hosts = [\"{HOST}\"]\n{text}"))
        .unwrap();
    assert_eq!(push(&controlled, "--confirm")["changes"]["changed"], Value::Array(Vec::new()));
    assert_eq!(shown(&controlled)["version"], 2);
    // A granted client gets in with the new policy.
    let [v4, v6] = CLIENT;
    let grant = format!("--host {HOST} --source {v4} {v6} --port 22 --why test --for 60s");
    controlled.jitctl(&format!("grant --signing-key signer.key {grant}")).good();
    controlled.site.assert_open_to_the_client_alone();
}

#[test]
fn the_connection_that_pushed_cannot_confirm() {
    let controlled = controlled();
    let site = &controlled.site;
    let files = "policy push policy.toml --signing-key release.key --why CHG-1 --out envelope";
    controlled.jitctl(files).good();
    let envelope = v1::Envelope::decode(fs::read(site.path("envelope")).unwrap().as_slice());
    let (envelope, socket) = (Some(envelope.unwrap()), site.path("run/agent.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut old = local::connect(&socket).await.unwrap();
        old.status(v1::StatusRequest {}).await.unwrap();
        let mut pusher = local::connect(&socket).await.unwrap();
        let request = v1::PushPolicyRequest { envelope, ..v1::PushPolicyRequest::default() };
        let answer = pusher.push_policy(request.clone()).await.unwrap().into_inner();
        assert_eq!(answer.reason, "pending");
        for client in [&mut old, &mut pusher] {
            let request = v1::ConfirmPolicyRequest { version: 1 };
            let refused = client.confirm_policy(request).await.unwrap_err();
            assert!(refused.message().starts_with("not_fresh: "), "{refused}");
        }
        let known = pusher.push_policy(request).await.unwrap().into_inner();
        assert_eq!(known.reason, "known");
        assert!((60_000..=120_000).contains(&known.confirm_left_ms));
        let mut fresh = local::connect(&socket).await.unwrap();
        fresh.show_policy(v1::ShowPolicyRequest {}).await.unwrap();
        let request = v1::ConfirmPolicyRequest { version: 1 };
        assert_eq!(fresh.confirm_policy(request).await.unwrap().into_inner().reason, "ok");
    });
}

#[test]
fn a_forbidden_policy_is_refused_by_its_word() {
    let controlled = controlled();
    let site = &controlled.site;
    let push = |arguments: &str| {
        controlled.jitctl(&format!("policy push policy.toml --why CHG-1 {arguments}"))
    };
    push("--signing-key signer.key").fails(77, "refused: unknown_key: ");
    push("--signing-key release.key --host db-1").fails(77, "refused: wrong_host: ");
    let more = "[[port]]\nport = 23\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\"]\n";
    fs::write(site.path("more.toml"), [POLICY, more].concat()).unwrap();
    controlled.jitctl("policy diff more.toml").fails(77, "refused: ceiling: 23/tcp");
    fs::write(site.path("bad.toml"), "[[port]]\nport = 22\nprotocl = \"tcp\"\n").unwrap();
    controlled.jitctl("policy diff bad.toml").fails_with(78, "protocl");
    push("--signing-key release.key --version 5").good();
    push("--signing-key release.key --version 5").fails(77, "refused: stale_version: ");
    push("--signing-key release.key --version 4").fails(77, "refused: stale_version: ");
    // A policy envelope is no grant, and a grant no policy.
    push("--signing-key release.key --out envelope").good();
    controlled.jitctl("push envelope").fails(77, "refused: bad_type: ");
    controlled.jitctl("policy push --envelope signer.key").fails(78, "jitctl: signer.key is not");
    let reader = |arguments: &str| {
        let files = "--ca pki/ca.pem --cert pki/reader.pem --key pki/reader.key";
        let [address, _] = TO_CLIENT;
        controlled.bare_jitctl(&format!("--agent {address}:{PORT} {files} {arguments}"))
    };
    assert!(reader("policy show").good().contains("[[port]]"));
    reader("policy diff policy.toml").fails(77, "refused: not_permitted: ");
    reader("policy push --envelope envelope").fails(77, "refused: not_permitted: ");
    reader("policy confirm").fails(77, "refused: not_permitted: ");
}

#[test]
fn a_diff_names_who_is_affected_and_strict_revokes() {
    let controlled = controlled();
    let site = &controlled.site;
    let [v4, v6] = CLIENT;
    let grant = format!("--host {HOST} --source {v4} {v6} --port 2222 --why test --for 60s");
    controlled.jitctl(&format!("grant --signing-key signer.key {grant}")).good();
    assert!(site.client_gets_in(0, 2222));
    fs::write(
        site.path("policy.toml"),
        POLICY.replacen("[\"0.0.0.0/0\", \"::/0\"]", "[\"192.0.2.0/24\"]", 1),
    )
    .unwrap();
    let said = controlled.jitctl("policy diff policy.toml").good();
    for line in ["closed   22/tcp", "changed  2222/tcp: sources", "would be refused: source_not"] {
        assert!(said.contains(line), "{line} is not in: {said}");
    }
    assert!(is_open(&controlled) && site.client_gets_in(0, 2222), "the diff has changed nothing");
    assert_eq!(push(&controlled, "--confirm")["revoked"], 0);
    assert!(site.client_gets_in(0, 2222), "live grants stay until their end");
    fs::write(site.path("policy.toml"), POLICY).unwrap();
    push(&controlled, "");
    fs::write(
        site.path("policy.toml"),
        POLICY.replacen("[\"0.0.0.0/0\", \"::/0\"]", "[\"192.0.2.0/24\"]", 1),
    )
    .unwrap();
    let answer = push(&controlled, "--strict");
    assert_eq!(
        (&answer["revoked"], answer["changes"]["grants"][0]["reason"].as_str()),
        (&1.into(), Some("source_not_allowed"))
    );
    assert!(!site.client_opens(0, 2222) && !site.client_opens(1, 2222));
}

/// A TLS connection of the reader that stays open.
async fn connect(controlled: &Controlled) -> JitAgentClient<Channel> {
    let pem = |name: &str| fs::read(controlled.site.path(name)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem("pki/ca.pem")).unwrap()).unwrap();
    let chain =
        CertificateDer::pem_slice_iter(&pem("pki/reader.pem")).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(&pem("pki/reader.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let [address, _] = TO_CLIENT;
    let tcp = tokio::net::TcpStream::connect((address, PORT)).await.unwrap();
    let name = ServerName::try_from(address.to_owned()).unwrap();
    let stream =
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let mut stream = Some(hyper_util::rt::TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("one connection, no more")) }
    });
    let endpoint = Endpoint::from_static("https://agent");
    JitAgentClient::new(endpoint.connect_with_connector(connector).await.unwrap())
}

#[test]
fn a_removed_controller_loses_its_permissions_on_open_connections() {
    let controlled = Controlled::new();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    controlled.site.client.run(|| {
        let runtime = runtime();
        let (mut client, mut events) = runtime.block_on(async {
            let mut client = connect(&controlled).await;
            client.list(v1::ListRequest::default()).await.unwrap();
            let events = client.watch(v1::WatchRequest::default()).await.unwrap().into_inner();
            (client, events)
        });
        let mut watch = Command::new(binary("jitctl"));
        let [address, _] = TO_CLIENT;
        watch.args(["--agent", &format!("{address}:{PORT}"), "--ca", "pki/ca.pem"]);
        watch.args(["--cert", "pki/reader.pem", "--key", "pki/reader.key", "watch"]);
        watch.current_dir(controlled.site.path("")).stdout(Stdio::null()).stderr(Stdio::piped());
        let watch = watch.spawn().unwrap();
        let reader =
            "[[controller]]\nidentity = \"spiffe://example.org/reader\"\nmay = [\"read\"]\n";
        edit(&controlled, |text| {
            assert!(text.contains(reader), "{text}");
            text.replace(reader, "")
        });
        runtime.block_on(async {
            let ended = loop {
                let next = tokio::time::timeout(Duration::from_secs(5), events.message()).await;
                match next.expect("the stream ends") {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("ended without a reason"),
                    Err(status) => break status,
                }
            };
            assert!(ended.message().starts_with("not_permitted: "), "{ended}");
            let refused = client.list(v1::ListRequest::default()).await.unwrap_err();
            assert!(refused.message().starts_with("not_permitted: "), "{refused}");
        });
        let ended = watch.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(77), "{said}");
        assert!(said.starts_with("refused: not_permitted: "), "{said}");
        // With fewer permissions than before the stream ends too. A controller that keeps its
        // permissions keeps its stream.
        edit(&controlled, |text| text + reader);
        runtime.block_on(async {
            client.list(v1::ListRequest::default()).await.unwrap();
        });
        edit(&controlled, |text| text.replace("may = [\"read\"]", "may = [\"revoke\"]"));
        runtime.block_on(async {
            let refused = client.list(v1::ListRequest::default()).await.unwrap_err();
            assert!(refused.message().contains("may do: revoke"), "{refused}");
        });
    });
}

#[test]
fn certificates_of_a_removed_authority_end_on_open_connections() {
    let controlled = Controlled::new();
    controlled.site.client.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut client = runtime.block_on(connect(&controlled));
        let mut list = || runtime.block_on(client.list(v1::ListRequest::default()));
        list().unwrap();
        let with = |authority: &str| {
            edit(&controlled, |text| {
                let (before, after) = text.split_once("client_ca = \"").unwrap();
                let (_, after) = after.split_once('"').unwrap();
                format!("{before}client_ca = \"{authority}\"{after}")
            });
        };
        with("other/ca.pem");
        let refused = list().unwrap_err();
        assert!(refused.message().starts_with("not_permitted: "), "{refused}");
        assert!(refused.message().contains("certificate no longer accepted"), "{refused}");
        with("pki/ca.pem");
        list().unwrap();
    });
}

#[test]
fn a_signing_key_is_exchanged_without_a_restart() {
    let controlled = Controlled::new();
    let site = &controlled.site;
    controlled.bare_jitctl("keygen --algorithm p256 --out next").good();
    let grant = |key: &str, source: &str, more: &str| {
        let what = format!("--host {HOST} --source {source} --port 22 --why test --for 60s {more}");
        controlled.jitctl(&format!("grant --signing-key {key} {what}"))
    };
    let [v4, v6] = CLIENT;
    grant("signer.key", v4, "").good();
    let soon = jit_proto::WallTime(jit_agent::system::sys::now().wall.0 + 5_000);
    grant("signer.key", v6, &format!("--from {soon}")).good();
    let pid = site.pid();
    edit(&controlled, |text| text.replace("signer.pub.pem", "next.pub.pem"));
    assert!(site.client_gets_in(0, 22), "an accepted grant stays");
    grant("signer.key", v4, "").fails(77, "refused: unknown_key: ");
    let left = 5_500 - (jit_agent::system::sys::now().wall.0 - (soon.0 - 5_000));
    thread::sleep(Duration::from_millis(u64::try_from(left.max(0)).unwrap()));
    assert!(!site.client_opens(1, 22), "a grant that had not begun does not open");
    grant("next.key", v6, "").good();
    assert!(site.client_gets_in(1, 22));
    assert_eq!(site.pid(), pid);
}
