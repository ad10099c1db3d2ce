//! `jitctl sign` and `inspect` as a person runs them, with a real ssh-agent and a real SoftHSM.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected panics"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A directory with an envelope that the key `one` has signed.
struct Place(TempDir);

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let one = place.text("one");
        good(place.jitctl(&["keygen", "--algorithm", "p256", "--out", &one]));
        let grant = [
            "grant",
            "--signing-key",
            &format!("{one}.key"),
            "--host",
            "web-1",
            "--source",
            "203.0.113.7",
            "--port",
            "22",
            "--for",
            "1h",
            "--why",
            "disk full",
            "--requester",
            "ana@example.org",
            "--out",
            &place.text("grant"),
        ];
        good(place.jitctl(&grant));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn jitctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_jitctl"))
            .args(arguments)
            .env("SSH_AUTH_SOCK", self.path("agent.sock"))
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The states of the signatures, checked with these keys.
    fn states(&self, keys: &[&Path]) -> Vec<String> {
        let grant = self.text("grant");
        let mut arguments = vec!["inspect", &grant, "--json"];
        for key in keys {
            arguments.extend(["--public-key", key.to_str().unwrap()]);
        }
        let said: Value = serde_json::from_str(&good(self.jitctl(&arguments))).unwrap();
        assert_eq!(said["payload"]["hosts"], "web-1");
        let signatures = said["signatures"].as_array().unwrap();
        signatures.iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect()
    }
}

fn good(output: Output) -> String {
    let said = String::from_utf8(output.stdout).unwrap();
    let complained = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}{complained}");
    said
}

fn run(program: &str, arguments: &[&str], variable: (&str, &Path)) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env(variable.0, variable.1).stdin(Stdio::null());
    good(command.output().unwrap_or_else(|error| {
        panic!("{program} does not start ({error}); `cargo xtask setup` installs it")
    }))
}

/// Starts an ssh-agent with one key of this kind.
fn ssh_agent(place: &Place, kind: &str) -> Agent {
    let socket = place.path("agent.sock");
    let mut agent = Command::new("ssh-agent");
    let agent = agent.args(["-D", "-a"]).arg(&socket).stdout(Stdio::null());
    let agent = Agent(agent.spawn().unwrap());
    while !socket.exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let (key, comment) = (place.text(kind), format!("{kind} of li"));
    let socket = ("SSH_AUTH_SOCK", socket.as_path());
    run("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", &comment, "-f", &key], socket);
    run("ssh-add", &["-q", &key], socket);
    agent
}

#[test]
fn a_person_signs_with_a_key_of_an_ssh_agent() {
    for kind in ["ed25519", "ecdsa"] {
        let place = Place::new();
        let _agent = ssh_agent(&place, kind);
        let grant = place.text("grant");
        let key = format!("ssh-agent:{kind} of li");
        let said = good(place.jitctl(&["sign", &grant, "--signing-key", &key, "--yes"]));
        for part in ["hosts      web-1\n", "ports      22/tcp\n", "now with 2 signatures\n"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // The public key in PEM, as OpenSSH converts it where it can.
        assert_eq!(place.states(&[]), ["unchecked", "unchecked"]);
        let one = place.path("one.pub.pem");
        assert_eq!(place.states(&[&one]), ["good", "bad"]);
        if kind == "ecdsa" {
            let public = format!("{}.pub", place.text(kind));
            let none = ("SSH_AUTH_SOCK", Path::new("/nonexistent"));
            let pem = run("ssh-keygen", &["-e", "-m", "PKCS8", "-f", &public], none);
            fs::write(place.path("li.pem"), pem).unwrap();
            assert_eq!(place.states(&[&one, &place.path("li.pem")]), ["good", "good"]);
        }
        let again = place.jitctl(&["sign", &grant, "--signing-key", &key, "--yes"]);
        assert_eq!(again.status.code(), Some(78));
    }
}

#[test]
fn a_person_is_asked_and_an_agent_without_the_key_is_named() {
    let place = Place::new();
    let grant = place.text("grant");
    let before = fs::read(&grant).unwrap();
    let asked = place.jitctl(&["sign", &grant, "--signing-key", &place.text("one.key")]);
    assert_eq!(asked.status.code(), Some(64));
    let none = place.jitctl(&["sign", &grant, "--signing-key", "ssh-agent:li", "--yes"]);
    assert_eq!(none.status.code(), Some(78));
    let _agent = ssh_agent(&place, "ed25519");
    let other = place.jitctl(&["sign", &grant, "--signing-key", "ssh-agent:bo", "--yes"]);
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(said.contains("it holds \"ed25519 of li\" (SHA256:"), "{said}");
    assert_eq!(fs::read(&grant).unwrap(), before);
}

#[test]
fn a_person_signs_with_a_key_of_a_pkcs11_module() {
    let place = Place::new();
    let grant = place.text("grant");
    fs::create_dir(place.path("tokens")).unwrap();
    let configuration = place.path("softhsm2.conf");
    let text = format!("directories.tokendir = {}\n", place.text("tokens"));
    fs::write(&configuration, text).unwrap();
    good(place.jitctl(&["keygen", "--algorithm", "p256", "--out", &place.text("hsm")]));
    fs::write(place.path("pin"), "8451\n").unwrap();
    let variable = ("SOFTHSM2_CONF", configuration.as_path());
    let init =
        ["--init-token", "--free", "--label", "my card", "--so-pin", "9999", "--pin", "8451"];
    run("softhsm2-util", &init, variable);
    let file = place.text("hsm.key");
    let import =
        ["--import", &file, "--token", "my card", "--label", "li", "--id", "01", "--pin", "8451"];
    run("softhsm2-util", &import, variable);
    let key = format!(
        "pkcs11:token=my%20card;object=li?module-path={SOFTHSM}&pin-source=file:{}",
        place.text("pin")
    );
    let signed = place.jitctl(&["sign", &grant, "--signing-key", &key, "--yes"]);
    if !cfg!(feature = "pkcs11") && !signed.status.success() {
        let said = String::from_utf8(signed.stderr).unwrap();
        assert!(said.contains("built without the feature `pkcs11`"), "{said}");
        return;
    }
    good(signed);
    let keys = [place.path("one.pub.pem"), place.path("hsm.pub.pem")];
    assert_eq!(place.states(&keys.each_ref().map(PathBuf::as_path)), ["good", "good"]);
}
