//! fwknop, the peer in push to open: a client sends one packet, a daemon that sees it opens the port
//! with a rule of iptables. Both in namespaces of their own, with all their files in a scratch
//! directory.

use std::{
    fs::{self, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    agent::{CLIENT, TO_CLIENT, address, greet, opens},
    netns::Namespace,
};

/// The subject's name in the tables.
pub const FWKNOP: &str = "fwknop";
/// Longest wait for the daemon to start, and for a port to open.
const LONGEST: Duration = Duration::from_secs(10);
/// Longest wait for a connection: the port drops what comes too early, so it is tried again soon.
const TRY: Duration = Duration::from_millis(2);
/// The chain that the daemon writes its rules to.
const CHAIN: &str = "FWKNOP_INPUT";
/// Any keys do, in base64.
const KEY: &str = "cmVpamRhZWxrZXlyZWlqZGFlbGtleTEyMzQ1Njc4OTA=";
const HMAC_KEY: &str = "aG1hY2tleWhtYWNrZXlobWFja2V5aG1hY2tleTEyMzQ1Njc4OTA=";

/// A running daemon that protects port 22 of its namespace, and a client.
pub struct Fwknop {
    host: Namespace,
    client: Namespace,
    directory: TempDir,
    daemon: Child,
}

impl Fwknop {
    /// Starts the daemon. `None`: fwknop or iptables is not installed.
    pub fn start() -> Option<Self> {
        let installed = |name: &str| {
            ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|directory| {
                fs::metadata(format!("{directory}/{name}")).is_ok_and(|file| file.is_file())
            })
        };
        if !["fwknopd", "fwknop", "iptables"].into_iter().all(installed) {
            return None;
        }
        let (host, client) = (Namespace::new(), Namespace::new());
        let [[ours, _], [theirs, _]] = [TO_CLIENT, CLIENT];
        host.connect("c0", &[&format!("{ours}/24")], &client, "p0", &[&format!("{theirs}/24")]);
        iptables(&host, "-A INPUT -p tcp --dport 22 -m conntrack --ctstate NEW -j DROP");
        greet(host.run(|| TcpListener::bind((ours, 22)).expect("listen")));
        let directory = tempfile::tempdir().expect("a scratch directory");
        let daemon = daemon(&host, &directory);
        let fwknop = Self { host, client, directory, daemon };
        fwknop.wait_until_ready();
        Some(fwknop)
    }

    /// Time from the start of the client's program until a connection has opened.
    pub fn open(&self) -> Duration {
        // The rule of the time before.
        iptables(&self.host, &format!("-F {CHAIN}"));
        let mut knock = self.knock();
        self.client.run(|| {
            assert!(!opens(to_server(), TRY), "the port is open without a packet");
            let start = Instant::now();
            let output = knock.output().expect("run fwknop");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            while !opens(to_server(), TRY) {
                assert!(start.elapsed() < LONGEST, "fwknop opens nothing:\n{}", self.log());
            }
            start.elapsed()
        })
    }

    fn knock(&self) -> Command {
        let [[server, _], [client, _]] = [TO_CLIENT, CLIENT];
        let mut command = Command::new("fwknop");
        command.args(["--access", "tcp/22", "--allow-ip", client, "--destination", server]);
        command.args(["--no-home-dir", "--no-rc-file", "-E"]);
        command.arg(self.directory.path().join("arguments"));
        command.args(["--key-base64-rijndael", KEY, "--use-hmac", "--key-base64-hmac", HMAC_KEY]);
        command
    }

    fn wait_until_ready(&self) {
        let end = Instant::now() + LONGEST;
        while !self.log().contains("main event loop") {
            assert!(Instant::now() < end, "fwknopd does not start:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Fwknop {
    fn drop(&mut self) {
        let _ended = self.daemon.kill();
        let _reaped = self.daemon.wait();
    }
}

fn daemon(host: &Namespace, directory: &TempDir) -> Child {
    let path = directory.path().display();
    let run = directory.path().join("run");
    fs::create_dir(&run).expect("a directory for fwknopd");
    fs::set_permissions(&run, Permissions::from_mode(0o700)).expect("a private directory");
    let configuration = format!(
        "PCAP_INTF c0;\nPCAP_FILTER udp port 62201;\nFWKNOP_RUN_DIR {path}/run;\n\
         FWKNOP_PID_FILE {path}/run/fwknopd.pid;\nDIGEST_FILE {path}/run/digest.cache;\n"
    );
    let access = format!(
        "SOURCE ANY\nOPEN_PORTS tcp/22\nKEY_BASE64 {KEY}\nHMAC_KEY_BASE64 {HMAC_KEY}\n\
         FW_ACCESS_TIMEOUT 60\n"
    );
    let files = [("fwknopd.conf", configuration), ("access.conf", access)].map(|(name, text)| {
        let file = directory.path().join(name);
        fs::write(&file, text).expect("write the configuration of fwknopd");
        // The daemon refuses a file that others can read.
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("a private file");
        file
    });
    let log = fs::File::create(directory.path().join("log")).expect("make the log of fwknopd");
    let [configuration, access] = files;
    let mut command = Command::new("fwknopd");
    command.args(["--foreground", "--config-file"]).arg(configuration);
    command.arg("--access-file").arg(access);
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
    host.start(&mut command)
}

fn iptables(host: &Namespace, arguments: &str) {
    let arguments = arguments.split(' ');
    let status = host.run(|| Command::new("iptables").args(arguments).status());
    assert!(status.expect("run iptables").success(), "iptables failed");
}

fn to_server() -> SocketAddr {
    address(TO_CLIENT, 0, 22)
}
