//! A controller, hosts with real agents, a client and a stranger, all on one bridge, each in a namespace
//! of its own. The programs are the built ones; people speak to the controller over its API, or by
//! `jitctl`. Drop removes everything, also after a panic.

pub mod hosts;
pub mod people;

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jit_client::controller::{call::Call, types::HostInput};
use rustix::process::{Pid, Signal, kill_process, pidfd_send_signal};
use tempfile::TempDir;

use self::{
    hosts::{CERTIFICATE_NAME, Host},
    people::Person,
};
use crate::{
    agent::{PATIENCE, SLOW},
    netns::Namespace,
    process::{assert_end, child_numbers, children},
    programs::binary,
};

/// Where the controller is.
pub const CONTROLLER: &str = "198.18.0.1";
/// Where the client is, which asks.
pub const CLIENT: &str = "198.18.0.10";
/// Where the stranger is, for whom nobody asks.
pub const STRANGER: &str = "198.18.0.66";
/// The port of the API.
pub const API_PORT: u16 = 8443;
/// Longest wait for a program to start, or to end.
pub const START: Duration = Duration::from_secs(180);

/// Lines that a configuration gets after these of `init`: a test calls more often than people do.
const MORE: [(&str, &str); 3] = [
    (
        "[api]\n",
        "account_rate = 100000\naccount_burst = 100000\naddress_rate = 100000\n\
         address_burst = 100000\n",
    ),
    ("[agents]\n", "follow_every = \"2s\"\ntimeout = \"5s\"\n"),
    ("[signer.limits]\n", "signatures_a_minute = 100000\n"),
];

/// The controller, the hosts, the client and the stranger.
pub struct Stage {
    /// Where the controller runs.
    pub hub: Arc<Namespace>,
    /// The client's machine.
    pub client: Arc<Namespace>,
    /// The stranger's machine.
    pub stranger: Arc<Namespace>,
    /// The hosts, by number.
    pub hosts: Vec<Host>,
    /// The first administrator.
    pub admin: Person,
    directory: TempDir,
    controller: Option<Child>,
}

impl Stage {
    /// Makes a controller with a database of SQLite, or this one of Postgres, and starts it.
    pub fn new(database: Option<&str>) -> Self {
        let hub = Arc::new(Namespace::new());
        hub.ip(&["link", "add", "br0", "type", "bridge"]);
        hub.address("br0", &format!("{CONTROLLER}/15"));
        hub.ip(&["link", "set", "br0", "up"]);
        let machine = |port: &str, address: &str| {
            let namespace = Namespace::new();
            hub.connect(port, &[], &namespace, "e0", &[&format!("{address}/15")]);
            hub.ip(&["link", "set", port, "master", "br0"]);
            Arc::new(namespace)
        };
        let (client, stranger) = (machine("client", CLIENT), machine("stranger", STRANGER));
        let directory = tempfile::tempdir().expect("a scratch directory");
        let own = directory.path().join("controller");
        let token = directory.path().join("admin.token");
        init(&own, &token, database);
        let pki = own.join("pki");
        let mut issue = Command::new(binary("jitctl"));
        issue.args(["pki", "issue", "--name", "agent", "--dns", CERTIFICATE_NAME, "--dir"]);
        succeed(issue.arg(&pki));
        let ca = fs::read_to_string(pki.join("ca.pem")).expect("the CA");
        let token = fs::read_to_string(&token).expect("the first token");
        let admin = Person::new("admin", &token, &ca, &hub);
        let mut stage =
            Self { hub, client, stranger, hosts: Vec::new(), admin, directory, controller: None };
        stage.start_controller(&[]);
        stage
    }

    /// A file of the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of the controller's directory.
    pub fn own(&self, name: &str) -> PathBuf {
        self.path("controller").join(name)
    }

    /// What the controller has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("controller.log")).unwrap_or_default()
    }

    /// Says in the configuration where people reach the controller. It counts from the next start on.
    pub fn set_public_url(&self, url: &str) {
        let file = self.own("controller.toml");
        let text = fs::read_to_string(&file).expect("the configuration");
        let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("public_url")).collect();
        let text = kept.join("\n").replacen("[api]", &format!("[api]\npublic_url = \"{url}\""), 1);
        fs::write(&file, text).expect("write the configuration");
    }

    /// Starts the controller with these roles, or with all, and waits until it answers.
    pub fn start_controller(&mut self, roles: &[&str]) {
        assert!(self.controller.is_none(), "one controller at a time");
        let log = fs::File::options().create(true).append(true).open(self.path("controller.log"));
        let mut command = Command::new(binary("jit-controller"));
        command.args(["serve", "--dir"]).arg(self.path("controller"));
        if !roles.is_empty() {
            command.arg("--roles").arg(roles.join(","));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("open the log"));
        let mut child = self.hub.start(&mut command);
        let address = format!("{CONTROLLER}:{API_PORT}").parse().expect("an address");
        let end = Instant::now() + START;
        let answers = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok();
        while !self.hub.run(answers) {
            let ended = child.try_wait().expect("wait for the controller");
            assert!(ended.is_none(), "the controller ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < end, "the controller does not answer:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
        self.controller = Some(child);
    }

    /// Ends the controller by a signal, and waits for its end and for that of its signer.
    pub fn end_controller(&mut self, signal: Signal) {
        let mut child = self.controller.take().expect("a controller");
        let below = children(child.id());
        kill_process(Pid::from_child(&child), signal).expect("signal the controller");
        child.wait().expect("wait for the controller");
        assert_end(&below, START);
    }

    /// Whether the controller still runs.
    pub fn controller_runs(&mut self) -> bool {
        let child = self.controller.as_mut().expect("a controller");
        child.try_wait().expect("wait for the controller").is_none()
    }

    /// Takes note that the controller has ended by itself.
    pub fn forget_controller(&mut self) {
        self.controller = None;
    }

    /// Process id of the controller.
    pub fn pid(&self) -> u32 {
        self.controller.as_ref().expect("a controller").id()
    }

    /// Process ids of the controller and its signer.
    pub fn processes(&self) -> Vec<u32> {
        let below = child_numbers(self.pid());
        std::iter::once(self.pid()).chain(below).collect()
    }

    /// Sends a signal to the controller's children: the signer. Returns their number.
    pub fn signal_signer(&self, signal: Signal) -> usize {
        let below = children(self.pid());
        for child in &below {
            // It may have ended meanwhile.
            let _gone = pidfd_send_signal(child, signal);
        }
        below.len()
    }

    /// Runs `jit-controller` until it ends.
    pub fn run_controller(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("jit-controller"));
        command.args(arguments).arg("--dir").arg(self.path("controller"));
        command.output().expect("run jit-controller")
    }

    /// Makes an account of this person with a token for these scopes.
    pub fn person(&self, account: &str, subject: &str, groups: &[&str], scopes: &[&str]) -> Person {
        self.admin.put_account(account, subject, groups, false);
        self.admin.make_token(account, scopes)
    }

    /// A host, with this id for the agent and for the controller, and these labels. Its agent does not
    /// run yet. Returns its number.
    pub fn add_host(&mut self, id: &str, labels: &[(&str, &str)]) -> usize {
        let number = self.add_machine(id);
        self.enter_host(number, id, labels);
        number
    }

    /// A machine with this id for its agent, of which the controller knows nothing. Returns its
    /// number.
    pub fn add_machine(&mut self, id: &str) -> usize {
        let number = self.hosts.len();
        let host =
            Host::new(number, id, &self.hub, &self.path("controller"), self.directory.path());
        self.hosts.push(host);
        number
    }

    /// Tells the controller of a host by this id.
    pub fn enter_host(&self, number: usize, id: &str, labels: &[(&str, &str)]) {
        let label = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let input = HostInput {
            address: self.host(number).address(),
            server_name: CERTIFICATE_NAME.into(),
            labels: labels.iter().map(label).collect(),
            ..HostInput::default()
        };
        self.admin.done(&Call::put(["hosts", id]).json(&input));
    }

    /// A host by its number.
    pub fn host(&self, number: usize) -> &Host {
        self.hosts.get(number).expect("a host with this number")
    }

    /// The same, for changes.
    pub fn host_mut(&mut self, number: usize) -> &mut Host {
        self.hosts.get_mut(number).expect("a host with this number")
    }

    /// Waits until the controller has seen a host enforce.
    pub fn wait_until_enforcing(&self, id: &str) {
        self.wait_for_condition(id, "enforcing");
    }

    /// Waits until the controller shows a host in this condition.
    #[track_caller]
    pub fn wait_for_condition(&self, id: &str, condition: &str) {
        let end = Instant::now() + START;
        loop {
            let host = self.admin.host(id);
            if host.condition == condition {
                return;
            }
            assert!(Instant::now() < end, "{id} is not {condition}: {host:#?}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether the client opens a connection to a port of a host at this moment.
    pub fn client_opens(&self, number: usize, port: u16) -> bool {
        self.host(number).opens_from(&self.client, port, PATIENCE)
    }

    /// Whether the stranger opens a connection to a port of a host at this moment.
    pub fn stranger_opens(&self, number: usize, port: u16) -> bool {
        self.host(number).opens_from(&self.stranger, port, PATIENCE)
    }

    /// [`Stage::client_opens`], on a machine that may be slow: for what must be open.
    pub fn client_gets_in(&self, number: usize, port: u16) -> bool {
        self.host(number).opens_from(&self.client, port, SLOW)
    }

    /// `jitctl` on a machine, with this person's login.
    pub fn jitctl(&self, on: &Namespace, person: &Person, arguments: &[&str]) -> Output {
        on.run(|| self.jitctl_command(person, arguments).output().expect("run jitctl"))
    }

    /// The same as a command.
    pub fn jitctl_command(&self, person: &Person, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("jitctl"));
        command.args(arguments).env("XDG_CONFIG_HOME", self.login_of(person));
        command.env("NO_COLOR", "1").env_remove("JITCTL_TOKEN").stdin(Stdio::null());
        command
    }

    /// Logs a person in, as people do.
    pub fn login(&self, on: &Namespace, person: &Person) {
        let token = self.path(&format!("{}.token", person.account));
        fs::write(&token, &person.token).expect("write a token");
        let url = format!("https://{CONTROLLER}:{API_PORT}");
        let mut command = self.jitctl_command(person, &["login", "--controller", &url, "--ca"]);
        command.arg(self.own("pki/ca.pem"));
        command.stdin(fs::File::open(&token).expect("open a token"));
        let output = on.run(|| command.output().expect("run jitctl"));
        assert!(output.status.success(), "{}", said(&output));
    }

    fn login_of(&self, person: &Person) -> PathBuf {
        self.path(&format!("login-{}", person.account))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let Some(mut child) = self.controller.take() else { return };
        let _ended = child.kill();
        let _reaped = child.wait();
        if thread::panicking() {
            eprintln!("the controller's log:\n{}", self.log());
        }
    }
}

/// Makes a controller's directory.
fn init(own: &Path, token: &Path, database: Option<&str>) {
    let mut command = Command::new(binary("jit-controller"));
    command.args(["init", "--name", CONTROLLER, "--listen", &format!("{CONTROLLER}:{API_PORT}")]);
    command.arg("--dir").arg(own).arg("--token-file").arg(token);
    if let Some(database) = database {
        command.args(["--database", database]);
    }
    succeed(&mut command);
    let file = own.join("controller.toml");
    let mut text = fs::read_to_string(&file).expect("the configuration");
    for (section, more) in MORE {
        assert!(text.contains(section), "no {section} in {text}");
        text = text.replacen(section, &format!("{section}{more}"), 1);
    }
    fs::write(&file, text).expect("write the configuration");
}

/// Runs a command that must succeed.
#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", said(&output));
}

/// What a program printed, for a failure.
pub fn said(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{}\n{out}{error}", output.status)
}
