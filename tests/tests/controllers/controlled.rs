//! A site whose agent listens for controllers, with keys and certificates made by `jitctl`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use jit_client::target::{Target, Tls, Way};
use jit_tests::{
    agent::{Site, TO_CLIENT},
    programs::binary,
};
use rustls::pki_types::ServerName;

/// Where the agent listens for controllers.
pub(crate) const PORT: u16 = 7443;
const CONTROLLER: &str = "spiffe://example.org/jit-controller";
const READER: &str = "spiffe://example.org/reader";
const SECOND: &str = "spiffe://example.org/second";

/// The site, and the controller's files in its scratch directory: `signer.key`, and in `pki` the
/// CA and the certificates `controller`, `second` and `reader`; in `other` those of a foreign CA.
pub(crate) struct Controlled {
    pub(crate) site: Site,
}

impl Controlled {
    /// With a running agent that trusts `signer` and also these public keys.
    pub(crate) fn with_signers(prepare: impl FnOnce(&Site) -> Vec<PathBuf>) -> Self {
        let mut site = Site::new();
        let more = prepare(&site);
        for arguments in [
            "keygen --algorithm ed25519 --out signer",
            "pki init --dir pki --name ours",
            "pki issue --dir pki --name agent --ip 198.51.100.1 --dns web-1.example.org",
            "pki issue --dir pki --name controller --uri spiffe://example.org/jit-controller",
            "pki issue --dir pki --name second --uri spiffe://example.org/second",
            "pki issue --dir pki --name reader --uri spiffe://example.org/reader",
            "pki init --dir other --name foreign",
            "pki issue --dir other --name controller --uri spiffe://example.org/jit-controller",
        ] {
            succeed(
                Command::new(binary("jitctl")).args(words(arguments)).current_dir(site.path("")),
            );
        }
        let mut keys = vec![site.path("signer.pub.pem")];
        keys.extend(more);
        let signers = keys.iter().enumerate().map(|(number, key)| {
            format!("[[signer]]\nid = \"controller-{number}\"\npublic_key = {key:?}\n")
        });
        let [address, _] = TO_CLIENT;
        site.configure(&format!(
            r#"
[control]
listen = "{address}:{PORT}"
certificate = "pki/agent.pem"
key = "pki/agent.key"
client_ca = "pki/ca.pem"
[[controller]]
identity = "{CONTROLLER}"
may = ["grant", "revoke", "read"]
[[controller]]
identity = "{SECOND}"
may = ["grant"]
[[controller]]
identity = "{READER}"
may = ["read"]
{}"#,
            signers.collect::<String>()
        ));
        site.start();
        Self { site }
    }

    /// With a running agent that trusts `signer`.
    pub(crate) fn new() -> Self {
        Self::with_signers(|_| Vec::new())
    }

    /// The agent, for a controller with this certificate of `pki`.
    pub(crate) fn target(&self, certificate: &str, timeout: Duration) -> Target {
        let [address, _] = TO_CLIENT;
        let file = |name: String| self.site.path(&format!("pki/{name}"));
        let tls = Tls {
            host: address.into(),
            port: PORT,
            name: ServerName::try_from(address).unwrap(),
            ca: file("ca.pem".into()),
            cert: file(format!("{certificate}.pem")),
            key: file(format!("{certificate}.key")),
        };
        Target { way: Way::Tls(Box::new(tls)), timeout }
    }

    /// Runs a command in the client's namespace and the scratch directory.
    pub(crate) fn run(&self, command: &mut Command) -> Output {
        command.current_dir(self.site.path(""));
        self.site.client.run(|| command.output().unwrap())
    }

    /// `jitctl` as the controller; arguments are separated by spaces.
    pub(crate) fn jitctl(&self, arguments: &str) -> Said {
        let [address, _] = TO_CLIENT;
        let files = "--ca pki/ca.pem --cert pki/controller.pem --key pki/controller.key";
        self.bare_jitctl(&format!("--agent {address}:{PORT} {files} {arguments}"))
    }

    /// `jitctl` with nothing but these arguments.
    pub(crate) fn bare_jitctl(&self, arguments: &str) -> Said {
        let mut command = Command::new(binary("jitctl"));
        Said::from(self.run(command.args(words(arguments)).env("USER", "ana")))
    }
}

/// The output of a command that has ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: Option<i32>,
    pub(crate) out: String,
    pub(crate) error: String,
}

impl Said {
    /// Fails unless it ended well. Returns what it printed.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!(self.exit, Some(0), "{self:?}");
        self.out
    }

    /// Fails unless it ended with this exit code and one line of error that begins with this.
    #[track_caller]
    pub(crate) fn fails(self, exit: i32, begins: &str) -> String {
        assert_eq!(self.exit, Some(exit), "{self:?}");
        assert!(self.error.starts_with(begins), "{begins}: {self:?}");
        assert_eq!(self.error.lines().count(), 1, "{self:?}");
        self.error
    }
}

impl Said {
    /// Fails unless it ended with this exit code and said this.
    #[track_caller]
    pub(crate) fn fails_with(self, exit: i32, says: &str) {
        assert_eq!(self.exit, Some(exit), "{self:?}");
        assert!(self.error.contains(says), "{says}: {self:?}");
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            exit: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command that must end well.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    fs::canonicalize(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path))
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn words(arguments: &str) -> impl Iterator<Item = &str> {
    arguments.split_whitespace()
}
