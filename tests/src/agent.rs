//! A host with a real agent, a granted client and a stranger, each in a namespace of its own.
//!
//! The agent is the built program. It gets its own configuration, keys and certificates. Grants are
//! pushed over its unix socket, as root. Drop removes everything, also after a panic.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Once,
    thread,
    time::{Duration, Instant},
};

use ed25519_dalek::{Signer as _, SigningKey, pkcs8::EncodePublicKey as _};
use jit_client::local;
use jit_proto::{
    SourcePrefix,
    dsse::pre_authentication_encoding,
    payload_type::GRANT_TYPE,
    v1::{self, revoke_request::What},
};
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    netns::{Namespace, is_orphan, unique},
    process::{assert_end, children},
    programs::binary,
};

/// The host's id, as grants name it.
pub const HOST: &str = "test-host";
/// The host's addresses on the client's side, IPv4 and IPv6.
pub const TO_CLIENT: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
/// The host's addresses on the stranger's side.
pub const TO_STRANGER: [&str; 2] = ["203.0.113.1", "2001:db8:2::1"];
/// The client's addresses.
pub const CLIENT: [&str; 2] = ["198.51.100.2", "2001:db8:1::2"];
/// The stranger's addresses.
pub const STRANGER: [&str; 2] = ["203.0.113.2", "2001:db8:2::2"];
/// Longest time for a connection to open. A test waits all of it for a connection that stays
/// closed.
pub const PATIENCE: Duration = Duration::from_millis(700);
/// How long one that must open may take: an emulated machine may stand still for a while.
pub const SLOW: Duration = Duration::from_secs(5);
/// Longest wait for the agent to start or stop, on an emulated machine as well.
const START: Duration = Duration::from_secs(60);

const BPF: &str = "/sys/fs/bpf";
const PINS: &str = "jit-test-";

static SWEEP: Once = Once::new();

/// The host, the client and the stranger.
pub struct Site {
    /// The namespace of the agent and the protected server.
    pub host: Namespace,
    /// The namespace of the client, which gets grants.
    pub client: Namespace,
    /// The namespace of the stranger, which gets no grant.
    pub stranger: Namespace,
    directory: TempDir,
    pins: PathBuf,
    agent: Option<Child>,
    program: PathBuf,
    key: SigningKey,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// Makes three namespaces, a TCP server on the host's port 22, and a configuration. No agent
    /// runs yet.
    pub fn new() -> Self {
        let (host, client, stranger) = (Namespace::new(), Namespace::new(), Namespace::new());
        let with = |addresses: [&str; 2]| {
            let [v4, v6] = addresses;
            [format!("{v4}/24"), format!("{v6}/64")]
        };
        for (name, ours, peer, theirs) in [
            ("c0", with(TO_CLIENT), &client, with(CLIENT)),
            ("s0", with(TO_STRANGER), &stranger, with(STRANGER)),
        ] {
            let (ours, theirs) = (ours.each_ref(), theirs.each_ref());
            host.connect(name, &ours.map(String::as_str), peer, "p0", &theirs.map(String::as_str));
        }
        let directory = tempfile::tempdir().expect("a scratch directory");
        let pins = new_pins();
        let mut seed = [0; 32];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
            .expect("random bytes");
        let key = SigningKey::from_bytes(&seed);
        let pem = key
            .verifying_key()
            .to_public_key_pem(ed25519_dalek::pkcs8::spki::der::pem::LineEnding::LF)
            .expect("a public key in PEM");
        fs::write(directory.path().join("signer.pem"), pem).expect("write the signer's key");
        let program = binary("jit-agent");
        let site = Self { host, client, stranger, directory, pins, agent: None, program, key };
        site.configure("");
        site.serve(22);
        site
    }

    /// Writes the configuration: port 22 protected, both interfaces gated; `extra` follows it.
    pub fn configure(&self, extra: &str) {
        self.write_config(&format!("{}{extra}", self.base("[\"*\"]", "auto")));
    }

    /// The same with other interfaces and hook.
    pub fn configure_gate(&self, interfaces: &str, hook: &str) {
        self.write_config(&self.base(interfaces, hook));
    }

    /// Replaces the whole configuration.
    pub fn write_config(&self, text: &str) {
        fs::write(self.config(), text).expect("write the configuration");
    }

    /// The configuration as [`Site::configure`] writes it.
    pub fn base(&self, interfaces: &str, hook: &str) -> String {
        let directory = self.directory.path().display();
        format!(
            r#"
[host]
id = "{HOST}"
[gate]
interfaces = {interfaces}
hook = "{hook}"
confirm_within = "off"
[[port]]
port = 22
protocol = "tcp"
sources = ["0.0.0.0/0", "::/0"]
[[signer]]
id = "test"
public_key = "signer.pem"
[paths]
state = "{directory}/state"
runtime = "{directory}/run"
pins = "{}"
"#,
            self.pins.display()
        )
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("config.toml")
    }

    /// A file in the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// From now on this program is the agent.
    pub fn use_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// The pin directory.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Whether the pin directory exists and is empty. systemd-tmpfiles makes it like this, and
    /// `detach` leaves it like this.
    pub fn holds_no_pins(&self) -> bool {
        fs::read_dir(&self.pins).is_ok_and(|mut pins| pins.next().is_none())
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_until_ready();
    }

    /// Takes an agent that was started in another way, and waits until it answers.
    pub fn adopt_process(&mut self, child: Child) {
        assert!(self.agent.is_none(), "one agent at a time");
        self.agent = Some(child);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + START;
        while !self.path("run/agent.sock").exists() || self.try_status().is_none() {
            let child = self.agent.as_mut().expect("an agent");
            if let Some(status) = child.try_wait().expect("wait for the agent") {
                panic!("the agent ended with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the agent does not answer:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts the agent and returns at once.
    pub fn spawn(&mut self) {
        assert!(self.agent.is_none(), "one agent at a time");
        // The socket of a killed agent must not look like an answer.
        drop(fs::remove_file(self.path("run/agent.sock")));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("open the log");
        let mut command = self.command(&["run"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.agent = Some(self.host.start(&mut command));
    }

    /// Runs the agent with these arguments in the host's namespace until it ends by itself.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.host.run(|| self.command(arguments).output().expect("run jit-agent"))
    }

    /// A command line of the agent.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--config").arg(self.config()).env("NO_COLOR", "1");
        command
    }

    /// Ends the agent with a signal, and waits for its end and for that of its children: they hold
    /// the listening port.
    pub fn end(&mut self, signal: Signal) {
        let children = children(self.pid());
        self.signal(signal);
        self.agent.take().expect("an agent").wait().expect("wait for the agent");
        assert_end(&children, START);
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.agent.as_ref().expect("an agent");
        kill_process(Pid::from_child(child), signal).expect("signal the agent");
    }

    /// Process id of the agent.
    pub fn pid(&self) -> u32 {
        self.agent.as_ref().expect("an agent").id()
    }

    /// The agent, and the process that talks to the network for it, if there is one.
    pub fn processes(&self) -> Vec<u32> {
        let front = self.status().0.pointer("/front/pid").and_then(Value::as_u64);
        let front = front.map(|pid| pid.try_into().expect("a process id"));
        std::iter::once(self.pid()).chain(front).collect()
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// `status --json` and its exit code.
    pub fn status(&self) -> (Value, i32) {
        let output = self.run(&["status", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let value = serde_json::from_str(&text).unwrap_or_else(|_| {
            panic!("status: {text}{}", String::from_utf8_lossy(&output.stderr))
        });
        (value, output.status.code().expect("an exit code"))
    }

    /// The same. On a machine whose disk is busy the agent may report that it does not answer: then it
    /// is asked again, for a minute at most.
    pub fn status_when_the_disk_answers(&self) -> (Value, i32) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let (status, code) = self.status();
            let busy = status.to_string().contains("the disk does not answer");
            if !busy || Instant::now() > end {
                return (status, code);
            }
        }
    }

    /// The same. On a machine that may stand still, an agent that runs is asked again until it answers
    /// itself, for a minute at most: without its answer `status` reports what the kernel holds.
    pub fn status_by_the_agent(&self) -> (Value, i32) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let (status, code) = self.status();
            let answered = status.get("started_at").is_some_and(|since| !since.is_null());
            if answered || self.agent.is_none() || Instant::now() > end {
                return (status, code);
            }
        }
    }

    /// A signed grant for these sources. Its window begins now.
    pub fn envelope(&self, sources: &[&str], lasts: Duration) -> v1::Envelope {
        self.sign(&self.grant(sources, lasts))
    }

    /// The same grant without a signature.
    pub fn grant(&self, sources: &[&str], lasts: Duration) -> v1::Grant {
        let now = jit_agent::system::sys::now().wall.0;
        let mut id = vec![0; 16];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())
            .expect("random bytes");
        let source = |text: &&str| {
            let prefix: SourcePrefix = text.parse().expect("a source");
            v1::Source::from(&prefix)
        };
        let port = v1::PortRange { protocol: v1::Protocol::Tcp.into(), first: 22, last: 22 };
        v1::Grant {
            id: id.into(),
            hosts: vec![HOST.into()],
            sources: sources.iter().map(source).collect(),
            ports: vec![port],
            issued_at_ms: now,
            not_before_ms: now,
            not_after_ms: now + i64::try_from(lasts.as_millis()).expect("a short time"),
            requester: "ana@example.org".into(),
            justification: "test".into(),
            ..v1::Grant::default()
        }
    }

    /// Signs a grant with the key that the host trusts.
    pub fn sign(&self, grant: &v1::Grant) -> v1::Envelope {
        let payload = grant.encode_to_vec();
        let message = pre_authentication_encoding(GRANT_TYPE, &payload);
        let signature = self.key.sign(&message).to_bytes().to_vec();
        v1::Envelope {
            payload_type: GRANT_TYPE.into(),
            payload: payload.into(),
            signatures: vec![v1::Signature {
                key_id: "test".into(),
                signature: signature.into(),
                ..v1::Signature::default()
            }],
        }
    }

    /// Pushes a grant for these sources. Panics unless the agent accepts it. One that has ended before a
    /// busy machine came to push it is signed anew.
    pub fn admit(&self, sources: &[&str], lasts: Duration) -> v1::Outcome {
        for _ in 0..5 {
            let signed = Instant::now();
            match self.push(self.envelope(sources, lasts)) {
                Err(refused) if signed.elapsed() >= lasts => {
                    assert!(refused.message().starts_with("expired: "), "{refused}");
                }
                outcome => return outcome.expect("an accepted grant"),
            }
        }
        panic!("in five attempts this machine pushed no grant of {lasts:?} in time");
    }

    /// Pushes an envelope.
    pub fn push(&self, envelope: v1::Envelope) -> Result<v1::Outcome, tonic::Status> {
        let request = v1::PushRequest { envelope: Some(envelope) };
        self.call(async |mut client| client.push(request).await)
            .map(|response| response.into_inner().outcome.expect("an outcome"))
    }

    /// Revokes everything. Returns the number of grants that ended. What is signed from now on does
    /// not fall under the revocation.
    pub fn revoke_all(&self) -> u32 {
        let revoked = self.revoke(What::All(true), false).revoked;
        let answered = jit_agent::system::sys::now().wall;
        while jit_agent::system::sys::now().wall <= answered {
            thread::yield_now();
        }
        revoked
    }

    /// Revokes. `cut`: ends the sessions, too.
    pub fn revoke(&self, what: What, cut: bool) -> v1::RevokeResponse {
        let request = v1::RevokeRequest { what: Some(what), reason: "test".into(), cut };
        self.call(async |mut client| client.revoke(request).await)
            .expect("a revocation")
            .into_inner()
    }

    /// A call over the unix socket.
    pub fn call<T>(
        &self,
        body: impl AsyncFnOnce(local::LocalClient) -> Result<T, tonic::Status>,
    ) -> Result<T, tonic::Status> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = self.path("run/agent.sock");
        runtime.block_on(async {
            let client = local::connect(&socket).await.expect("connect to the agent");
            body(client).await
        })
    }

    /// Starts a TCP server on all of the host's addresses, of both families. It greets and then
    /// echoes, for as long as the test runs.
    pub fn serve(&self, port: u16) {
        greet(self.host.run(|| TcpListener::bind(("::", port)).expect("listen")));
    }

    /// The same by a socket that is bound to a device (`SO_BINDTODEVICE`).
    pub fn serve_on(&self, device: &str, port: u16) {
        greet(self.host.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let socket = tokio::net::TcpSocket::new_v6().expect("a socket");
                socket.bind_device(Some(device.as_bytes())).expect("bind to a device");
                socket.bind((Ipv6Addr::UNSPECIFIED, port).into()).expect("bind to a port");
                let listener = socket.listen(64).and_then(tokio::net::TcpListener::into_std);
                let listener = listener.expect("listen");
                listener.set_nonblocking(false).expect("a listener that waits");
                listener
            })
        }));
    }

    /// Whether the client can open a connection to the host's port at this moment.
    pub fn client_opens(&self, family: usize, port: u16) -> bool {
        self.client.run(|| opens(address(TO_CLIENT, family, port), PATIENCE))
    }

    /// Whether the stranger can open a connection to the host's port at this moment.
    pub fn stranger_opens(&self, family: usize, port: u16) -> bool {
        self.stranger.run(|| opens(address(TO_STRANGER, family, port), PATIENCE))
    }

    /// [`Site::client_opens`], on a machine that may be slow: for what must be open.
    pub fn client_gets_in(&self, family: usize, port: u16) -> bool {
        self.client.run(|| opens(address(TO_CLIENT, family, port), SLOW))
    }

    /// [`Site::stranger_opens`], on a machine that may be slow: for what must be open.
    pub fn stranger_gets_in(&self, family: usize, port: u16) -> bool {
        self.stranger.run(|| opens(address(TO_STRANGER, family, port), SLOW))
    }

    /// Fails unless port 22 is open to the client, over both families, and closed to the stranger.
    #[track_caller]
    pub fn assert_open_to_the_client_alone(&self) {
        for family in [0, 1] {
            assert!(self.client_gets_in(family, 22), "the client, family {family}\n{}", self.log());
            assert!(!self.stranger_opens(family, 22), "the stranger, family {family}");
        }
    }

    /// Fails unless port 22 is closed to everybody, over both families.
    #[track_caller]
    pub fn assert_closed_to_all(&self) {
        for family in [0, 1] {
            assert!(!self.client_opens(family, 22), "the client, family {family}");
            assert!(!self.stranger_opens(family, 22), "the stranger, family {family}");
        }
    }

    fn try_status(&self) -> Option<Value> {
        let output = self.run(&["status", "--json"]);
        let value: Value = serde_json::from_slice(&output.stdout).ok()?;
        // Without an answer of the agent, `status` reads the pins and says so.
        (!value.get("started_at")?.is_null()).then_some(value)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _ended = child.kill();
            let _reaped = child.wait();
        }
        remove_pins(&self.pins);
    }
}

/// One of two addresses, with a port.
pub fn address(addresses: [&str; 2], family: usize, port: u16) -> SocketAddr {
    let [v4, v6] = addresses;
    let text = if family.is_multiple_of(2) { v4 } else { v6 };
    let ip: IpAddr = text.parse().expect("an address");
    SocketAddr::new(ip, port)
}

/// Whether a connection opens and the server greets, within a time.
pub fn opens(address: SocketAddr, within: Duration) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, within) else { return false };
    stream.set_read_timeout(Some(within.max(PATIENCE))).expect("a time-out");
    let mut greeting = [0; 2];
    stream.read_exact(&mut greeting).is_ok() && &greeting == b"hi"
}

/// Whether a session still carries data both ways.
pub fn carries(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a time-out");
    let mut answer = [0; 4];
    stream.write_all(b"ping").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"ping"
}

/// Greets and echoes, for as long as the test runs.
pub(crate) fn greet(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
}

fn echo(mut stream: TcpStream) {
    if stream.write_all(b"hi").is_err() {
        return;
    }
    let mut bytes = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(bytes.get(..read).unwrap_or_default()).is_err() {
            return;
        }
    }
}

/// A pin directory that no other host has.
pub(crate) fn new_pins() -> PathBuf {
    SWEEP.call_once(sweep);
    Path::new(BPF).join(format!("{PINS}{}-{}", std::process::id(), unique()))
}

/// Removes the pins of test runs that were killed.
fn sweep() {
    for entry in fs::read_dir(BPF).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(PINS).is_some_and(is_orphan) {
            remove_pins(&entry.path());
        }
    }
}

pub(crate) fn remove_pins(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            remove_pins(&path);
        } else {
            let _gone = fs::remove_file(path);
        }
    }
    let _gone = fs::remove_dir(directory);
}
