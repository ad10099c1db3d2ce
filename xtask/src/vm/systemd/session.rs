//! SSH sessions from the client's address: a command on a terminal or without one, as a person has it.

use std::{
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    link::{Link, MACHINE},
    machine::Done,
};

/// How long a session waits for an echo. The first one waits for the keys to be exchanged, too.
const PATIENCE: Duration = Duration::from_secs(30);
/// A program that prints nothing for this long, in the middle of a line, waits for an answer.
const QUIET: Duration = Duration::from_millis(500);

/// What a session talks to.
#[derive(Clone, Copy)]
pub(super) enum Ends {
    /// A terminal: programs ask.
    Terminal,
    /// Pipes.
    Pipes,
}

/// A session. Drop ends it.
pub(super) struct Session {
    child: Child,
    output: mpsc::Receiver<Vec<u8>>,
    /// What it has printed.
    said: String,
    /// Where in it the next answer is looked for.
    read: usize,
    lines: u32,
}

impl Session {
    /// Logs in from this address with this key, and runs a command.
    pub(super) fn open(
        link: &Link,
        from: Ipv4Addr,
        key: &Path,
        ends: Ends,
        shown: &str,
    ) -> Result<Self> {
        let mut command = Command::new("ssh");
        command
            .args(["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-F", "none"])
            .args(["-b", &from.to_string(), "-i"])
            .arg(key)
            .args(match ends {
                Ends::Terminal => ["-tt"].as_slice(),
                Ends::Pipes => &["-T"],
            })
            .args([&format!("root@{}", MACHINE.v4), shown])
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = link.start(&mut command)?;
        let mut from = child.stdout.take().context("the session's output is a pipe")?;
        let (send, output) = mpsc::channel();
        thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut part) {
                let part = part.get(..length).unwrap_or_default().to_vec();
                if send.send(part).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, output, said: String::new(), read: 0, lines: 0 })
    }

    /// Types a line.
    pub(super) fn types(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("the session's input is a pipe")?;
        writeln!(input, "{line}").context("the SSH session has ended")
    }

    /// Waits until this is printed, after what was waited for before. Returns the text up to its end.
    pub(super) fn prints(&mut self, text: &str, patience: Duration) -> Result<String> {
        let end = Instant::now() + patience;
        loop {
            let unread = self.said.get(self.read..).unwrap_or_default();
            if let Some(at) = unread.find(text) {
                let found = unread.get(..at + text.len()).unwrap_or_default().to_owned();
                self.read += found.len();
                return Ok(found);
            }
            match self.output.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(part) => self.said += &String::from_utf8_lossy(&part),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("after {} s not {text:?}, but: {unread}", patience.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the SSH session has ended without {text:?}: {unread}")
                }
            }
        }
    }

    /// Answers each question, until the command ends by itself.
    pub(super) fn answers(
        mut self,
        answer: impl Fn(&str) -> &'static str,
        patience: Duration,
    ) -> Result<Done> {
        let end = Instant::now() + patience;
        loop {
            match self.output.recv_timeout(QUIET) {
                Ok(part) => self.said += &String::from_utf8_lossy(&part),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    ensure!(
                        Instant::now() < end,
                        "it has not ended after {} s: {}",
                        patience.as_secs(),
                        self.said
                    );
                    if let Some(question) = question(self.said.get(self.read..).unwrap_or_default())
                    {
                        let answer = answer(question);
                        self.read = self.said.len();
                        self.types(answer)?;
                    }
                }
            }
        }
        let status = self.child.wait().context("waiting for ssh")?;
        let code = status.code().context("ssh was killed")?;
        Ok(Done { code, output: self.said.replace('\r', "") })
    }

    /// The far end is `cat`: a line must come back.
    pub(super) fn echo(&mut self) -> Result<()> {
        self.lines += 1;
        let line = format!("line {}", self.lines);
        self.types(&line)?;
        let back = self.prints("\n", PATIENCE).context("the SSH session is silent")?;
        ensure!(back.trim_end() == line, "the SSH session answers {back:?}");
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The question that a text ends with: a line without an end, with a colon or a bracket before the
/// cursor.
fn question(text: &str) -> Option<&str> {
    let line = text.rsplit(['\n', '\r']).next()?;
    let asks = line.ends_with(": ") || line.ends_with("] ");
    asks.then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_an_unfinished_line_with_a_colon_or_a_bracket() {
        assert_eq!(question("one\r\nThe host's id [web-1]: "), Some("The host's id [web-1]: "));
        assert_eq!(question("Enforce now? [y/N] "), Some("Enforce now? [y/N] "));
        for none in ["", "done\n", "next:\n", "\r1m 59s left to confirm   ", "installing"] {
            assert_eq!(question(none), None, "{none:?}");
        }
    }
}
