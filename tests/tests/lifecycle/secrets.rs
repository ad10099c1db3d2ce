//! No private key leaves its file: not into the log, the arguments, the environment, what a command
//! prints, or the state directory, whatever goes wrong. Nor does its text stay in the agent's memory.

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
    process::Stdio,
    time::Duration,
};

use jit_tests::agent::{CLIENT, Site};
use rustix::process::Signal;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

use crate::{controllers, sessions::wait_until};

/// A private key's bytes, in each form in which somebody could write them.
struct Secret {
    name: String,
    /// The part of the file's text that is the secret and nothing else.
    text: String,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn of(file: &Path) -> Self {
        let pem = fs::read(file).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem).unwrap();
        let der = key.secret_der();
        // PKCS#8 of both kinds: the first octet string of 32 bytes is the secret (RFC 5915, RFC 8410).
        let at = der.windows(2).position(|pair| pair == [0x04, 0x20]).unwrap() + 2;
        let scalar = der[at..at + 32].to_vec();
        let hex: String = scalar.iter().map(|byte| format!("{byte:02x}")).collect();
        let listed: Vec<_> = scalar.iter().map(u8::to_string).collect();
        let mut forms = vec![listed.join(", ").into_bytes(), hex.to_uppercase().into_bytes()];
        forms.extend([hex.into_bytes(), scalar]);
        let text = String::from_utf8(pem).unwrap();
        let body: Vec<_> = text.lines().filter(|line| !line.starts_with('-')).collect();
        let long = body.iter().filter(|line| line.len() >= 16);
        forms.extend(long.map(|line| line.as_bytes().to_vec()));
        // Base64 in groups of 4 characters for 3 bytes; a line has 64. What is before the secret is the
        // same in every key of its kind.
        let first = at.div_ceil(3) * 4;
        let text = body.concat()[first..first + 15].to_owned();
        forms.push(text.clone().into_bytes());
        Self { name: file.display().to_string(), text, forms }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms.iter().any(|form| memchr::memmem::find(bytes, form).is_some())
    }
}

/// Whether a process has the text in memory that it can write.
fn remembers(pid: u32, text: &str) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().filter(|line| line.contains(" rw")).any(|line| {
        let (range, _) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|end| u64::from_str_radix(end, 16).unwrap());
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(from)).unwrap();
        // What cannot be read is of the kernel.
        let _end = (&mut memory).take(to - from).read_to_end(&mut bytes);
        memchr::memmem::find(&bytes, text.as_bytes()).is_some()
    })
}

/// Fails if a secret is in what somebody may read.
#[track_caller]
fn assert_without(secrets: &[Secret], place: &str, bytes: &[u8]) {
    for secret in secrets {
        assert!(!secret.is_in(bytes), "{place} has the key of {}", secret.name);
    }
}

/// The files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn printed(site: &Site, arguments: &[&str]) -> Vec<u8> {
    let output = site.run(arguments);
    [output.stdout, output.stderr].concat()
}

fn start_chatty(site: &mut Site) {
    let log = fs::OpenOptions::new().create(true).append(true).open(site.path("log")).unwrap();
    let mut command = site.command(&["run"]);
    command.env("RUST_LOG", "trace").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = site.host.start(&mut command);
    site.adopt_process(child);
}

#[test]
fn no_private_key_leaves_its_file() {
    let mut site = controllers::site();
    site.end(Signal::TERM);
    start_chatty(&mut site);
    let own = site.path("pki/agent.key");
    let secrets =
        ["pki/agent.key", "signing.key", "state/host.key"].map(|file| Secret::of(&site.path(file)));
    for secret in &secrets {
        let file = fs::read(&secret.name).unwrap();
        assert!(secret.is_in(&file), "a search that finds nothing");
        assert!(memchr::memmem::find(&file, secret.text.as_bytes()).is_some(), "one line's part");
    }

    // While everything is good, and after certificate and key were read once more.
    site.admit(&CLIENT, Duration::from_secs(600));
    site.signal(Signal::HUP);
    wait_until(|| site.log().contains("reloaded"));
    assert!(remembers(site.pid(), jit_tests::agent::HOST), "a search that finds nothing");
    for secret in [&secrets[0], &secrets[2]] {
        assert!(!remembers(site.pid(), &secret.text), "{} is in memory as text", secret.name);
    }

    let output = controllers::call(
        &site,
        "pki/ca.pem",
        "pki",
        "controller",
        &controllers::grant("198.51.100.2", &[]),
    );
    assert!(output.status.success(), "{output:?}");

    // Each of these is refused, with a message: the key among other text, cut, doubled, in place of
    // another file.
    let (key, ca) = (fs::read_to_string(&own).unwrap(), fs::read(site.path("pki/ca.pem")).unwrap());
    let cut = key.get(..key.len() / 2).unwrap();
    let wrong = [format!("garbage\n{key}garbage"), cut.to_owned(), format!("{key}{key}")];
    let mut said = Vec::new();
    for text in wrong {
        fs::write(&own, text).unwrap();
        site.signal(Signal::HUP);
        said.extend(["check", "doctor", "status"].map(|command| printed(&site, &[command])));
    }
    fs::write(&own, &key).unwrap();
    for place in ["pki/ca.pem", "pki/agent.pem", "signing.pub.pem", "config.toml"] {
        let before = fs::read(site.path(place)).unwrap();
        fs::write(site.path(place), &key).unwrap();
        site.signal(Signal::HUP);
        said.push(printed(&site, &["check"]));
        said.push(printed(&site, &["doctor", "--json"]));
        fs::write(site.path(place), before).unwrap();
    }
    fs::write(site.path("pki/ca.pem"), ca).unwrap();
    site.signal(Signal::HUP);
    wait_until(|| site.status().0["problems"].as_array().unwrap().is_empty());

    for bytes in said {
        assert_without(&secrets, "what a command printed", &bytes);
    }
    for file in ["cmdline", "environ"] {
        let bytes = fs::read(format!("/proc/{}/{file}", site.pid())).unwrap();
        assert_without(&secrets, file, &bytes);
    }
    site.end(Signal::TERM);
    assert_without(&secrets, "the log", site.log().as_bytes());
    let kept = files(&site.path("state"));
    assert!(kept.len() > 3, "a state directory with content: {kept:?}");
    for file in kept {
        let bytes = fs::read(&file).unwrap();
        if file.ends_with("host.key") {
            assert_without(&secrets[..2], "the host's own key file", &bytes);
        } else {
            assert_without(&secrets, &file.display().to_string(), &bytes);
        }
    }
}
