//! A key that a program of yours holds: a cloud's key service, a device without PKCS#11. The program is
//! kept running; each side writes JSON, one message a line.
//!
//! It begins: `{"public_key":"-----BEGIN PUBLIC KEY-----\n..."}`. Then it answers each
//! `{"id":1,"sign":"<base64 of the bytes>","sha256":"<base64 of their SHA-256>"}` with
//! `{"id":1,"signature":"<base64>"}` or `{"id":1,"error":"..."}`, and ends when its input ends. A service
//! that signs digests signs `sha256`. The form is in docs/controller-signers.md.

use std::{
    io::{self, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jit_client::public_key::PublicKey;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Longest line that the program may write, bytes.
const MAX_LINE: usize = 64 * 1024;
/// Longest wait for its first line: it may have to reach its service.
const START: Duration = Duration::from_secs(30);

/// A program that signs.
#[derive(Debug)]
pub(super) struct CommandKey {
    public: PublicKey,
    input: ChildStdin,
    output: Lines,
    timeout: Duration,
    last: u64,
    // It ends when its input is closed.
    _child: Child,
}

/// What it writes first.
#[derive(Deserialize)]
struct Hello {
    public_key: String,
}

/// What it answers.
#[derive(Deserialize)]
struct Answer {
    id: u64,
    #[serde(default)]
    signature: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

impl CommandKey {
    /// Starts the program and reads its public key.
    pub(super) fn start(command: &[String], timeout: Duration) -> Result<Self, String> {
        let [program, arguments @ ..] = command else { return Err("the command is empty".into()) };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("it does not start: {error}"))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no pipes".into());
        };
        let mut output = Lines { output, read: Vec::new() };
        let first = output.next(START)?;
        let hello: Hello = serde_json::from_str(&first)
            .map_err(|error| format!("its first line is no public key: {error}"))?;
        let public = PublicKey::from_pem(&hello.public_key)
            .map_err(|error| format!("its first line has no public key: {error}"))?;
        Ok(Self { public, input, output, timeout, last: 0, _child: child })
    }

    pub(super) const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Has a message signed. After an error that is not the program's own word it must not be used again.
    pub(super) fn sign(&mut self, message: &[u8]) -> Result<Vec<u8>, String> {
        self.last += 1;
        let digest = STANDARD.encode(Sha256::digest(message));
        let ask = json!({ "id": self.last, "sign": STANDARD.encode(message), "sha256": digest });
        self.input
            .write_all(format!("{ask}\n").as_bytes())
            .map_err(|error| format!("the program does not read: {error}"))?;
        let line = self.output.next(self.timeout)?;
        let Answer { id, signature, error } = serde_json::from_str(&line)
            .map_err(|error| format!("the program's answer is not understood: {error}"))?;
        if id != self.last {
            return Err(format!("the program answers {id} when {} was asked", self.last));
        }
        match (signature, error) {
            (_, Some(error)) => Err(format!("the program says: {error}")),
            (Some(signature), None) => STANDARD
                .decode(signature)
                .map_err(|_| "the program's signature is not base64".to_owned()),
            (None, None) => Err("the program's answer has neither signature nor error".to_owned()),
        }
    }
}

/// Lines of a program, waited for with a limit.
#[derive(Debug)]
struct Lines {
    output: ChildStdout,
    read: Vec<u8>,
}

impl Lines {
    fn next(&mut self, patience: Duration) -> Result<String, String> {
        let until = Instant::now() + patience;
        let failed = |error: io::Error| format!("the program's output cannot be read: {error}");
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let line = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(line)
                    .map_err(|_| "the program wrote what is no UTF-8".to_owned());
            }
            if self.read.len() > MAX_LINE {
                return Err(format!("the program wrote more than {MAX_LINE} bytes on a line"));
            }
            let left = until.saturating_duration_since(Instant::now());
            let wait = Timespec::try_from(left).map_err(|_| "the time-out is too long")?;
            let mut fds = [PollFd::new(&self.output, PollFlags::IN)];
            match poll(&mut fds, Some(&wait)) {
                Ok(0) => {
                    return Err(format!(
                        "the program did not answer within {} ms",
                        patience.as_millis()
                    ));
                }
                Ok(_) => {}
                Err(error) if error == rustix::io::Errno::INTR => continue,
                Err(error) => return Err(failed(error.into())),
            }
            let mut chunk = [0; 4096];
            match self.output.read(&mut chunk).map_err(failed)? {
                0 => return Err("the program has ended".to_owned()),
                count => self.read.extend(chunk.iter().take(count)),
            }
        }
    }
}
