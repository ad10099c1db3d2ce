//! The README's section about the installation, copied as it stands. The commands are read from the
//! README, so it and this step cannot say different things.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::install;
use crate::{
    shell,
    vm::systemd::{
        machine::Done,
        packages::INSIDE,
        scene::Scene,
        session::{Ends, Session},
    },
};

const SECTION: &str = "## Install on a server";
/// The file of the certificates on the server.
const TLS: &str = "/etc/jit-agent/tls";
/// What the text asks for between two commands: it is done below.
const BY_HAND: &str =
    "put `agent.pem` and `ca.pem` into `/etc/jit-agent/tls`, and run `init` again";
const PATIENCE: Duration = Duration::from_secs(400);

/// A command of the section.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// Where the keys are.
    Keys(String),
    /// On the server, as root.
    Server(String),
}

/// Copies the section, line by line. It ends ENFORCING.
pub(super) fn readme(scene: &mut Scene) -> Result<String> {
    let text = fs::read_to_string(shell::root().join("README.md")).context("reading the README")?;
    let lines = lines(&text)?;
    let keys = scene.scratch.join("readme");
    fs::create_dir(&keys).context("making a folder for keys")?;
    scene.machine.run_within("dpkg --purge jit-agent jitctl", PATIENCE)?;
    install::mount(scene)?;
    scene.machine.run(&format!("cp {INSIDE}/now/*.deb /root/"))?;
    scene.stranger_gets_in(Duration::from_secs(60))?;
    let mut copy = Copy { keys, init: None, trial: None };
    let mut closed = None;
    for line in &lines {
        match line {
            Line::Keys(line) => copy.on_keys_host(scene, line)?,
            Line::Server(line) => {
                copy.on_server(scene, line).with_context(|| format!("`{line}`"))?;
            }
        }
        if copy.trial.is_some() {
            closed.get_or_insert_with(Instant::now);
        }
    }
    let closed = closed.context("nothing was closed")?;
    scene.wait_enforcing()?;
    let listed = scene.jitctl_with(&copy.keys.join("pki"), &["list"])?;
    let said = String::from_utf8_lossy(&listed.stderr);
    ensure!(listed.status.success(), "the controller cannot connect: {said}");
    scene.exempt_gets_in().context("the person who installed it")?;
    let status = scene.machine.run("jit-agent status")?;
    let first = status.lines().next().unwrap_or_default().to_owned();
    let nobody = scene.nobody_since(closed)?;
    Ok(format!("{} commands; {first}; the controller connects; {nobody}", lines.len()))
}

/// The commands of the section, in their order: those of the console, and those of `jitctl` in the text.
fn lines(text: &str) -> Result<Vec<Line>> {
    let (_, section) = text.split_once(SECTION).context("the README has no such section")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let joined = section.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(joined.contains(BY_HAND), "the README no longer says: {BY_HAND}");
    let mut lines = Vec::new();
    for (place, part) in section.split("```").enumerate() {
        if place % 2 == 0 {
            let code = part.split('`').skip(1).step_by(2);
            let words = code.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" "));
            lines.extend(words.filter(|code| code.starts_with("jitctl ")).map(Line::Keys));
        } else if let Some(console) = part.strip_prefix("console\n") {
            for line in console.lines() {
                lines.push(match line.split_once(' ') {
                    Some(("$", command)) => Line::Keys(command.to_owned()),
                    Some(("#", command)) => Line::Server(command.to_owned()),
                    _ => bail!("neither a command nor a server's command: {line:?}"),
                });
            }
        }
    }
    ensure!(!lines.is_empty(), "the section has no commands");
    Ok(lines)
}

/// What the copying hand remembers.
struct Copy {
    /// The folder with the keys, where the person sits.
    keys: std::path::PathBuf,
    /// The command with which `init` was run.
    init: Option<String>,
    /// The session in which `enforce` waits.
    trial: Option<Session>,
}

impl Copy {
    fn on_keys_host(&self, scene: &mut Scene, line: &str) -> Result<()> {
        // The packages are made before, by the same command; they have the same `jitctl`.
        if line.starts_with("cargo xtask ") {
            return Ok(());
        }
        let signs = line.contains(" --csr ");
        if signs {
            let request = scene.machine.run(&format!("cat {TLS}/agent.csr"))?;
            fs::write(self.keys.join("agent.csr"), request).context("carrying the request")?;
        }
        let programs = scene.packages.jitctl.parent().unwrap_or(Path::new("/"));
        let path = format!("{}:/usr/bin:/bin", programs.display());
        let mut command = Command::new("sh");
        command.args(["-e", "-c", line]).current_dir(&self.keys).env("PATH", path);
        shell::quiet(&mut command)?;
        if line.contains(" keygen ") {
            scene.put(
                "readme/prod-2026.pub.pem",
                "/root/prod-2026.pub.pem",
                "root:root",
                "0644",
            )?;
        }
        if signs {
            for name in ["agent.pem", "ca.pem"] {
                let to = format!("{TLS}/{name}");
                scene.put(&format!("readme/pki/{name}"), &to, "root:root", "0644")?;
            }
            let init = self.init.as_deref().context("`init` was not run before")?;
            let said = person(scene, init, 0).with_context(|| format!("`{init}`, again"))?;
            ensure!(!said.contains("--csr"), "it asks for a certificate still: {said}");
        }
        Ok(())
    }

    fn on_server(&mut self, scene: &Scene, line: &str) -> Result<()> {
        if line.starts_with("jit-agent enforce") {
            let mut session = scene.ssh(Ends::Terminal, line)?;
            session.prints("[y/N] ", PATIENCE)?;
            session.types("y")?;
            session.prints("ENFORCING ON TRIAL", PATIENCE)?;
            self.trial = Some(session);
            return Ok(());
        }
        // The gate observes until `enforce`: `status` ends with 2, "not enforcing".
        let code = if line.contains("jit-agent status") { 2 } else { 0 };
        let said = person(scene, line, code)?;
        if line.starts_with("jit-agent init") {
            self.init = Some(line.to_owned());
        }
        if line.starts_with("jit-agent confirm") {
            let trial = self.trial.take().context("`enforce` was not run before")?;
            let Done { code, output } = trial.answers(|_| "", PATIENCE)?;
            ensure!(code == 0 && output.contains("confirmed"), "enforce: {code}, {output}");
            ensure!(said.contains("confirmed"), "{said}");
        }
        Ok(())
    }
}

/// A person runs a command over SSH on a terminal, and answers each question with Enter.
fn person(scene: &Scene, line: &str, expected: i32) -> Result<String> {
    let Done { code, output } = scene.ssh(Ends::Terminal, line)?.answers(|_| "", PATIENCE)?;
    ensure!(code == expected, "it ended with {code}:\n{}", output.trim());
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_of_the_readme_is_read_in_its_order() {
        let text = fs::read_to_string(shell::root().join("README.md")).unwrap();
        let lines = lines(&text).unwrap();
        let place = |part: &str| {
            let found = lines.iter().position(|line| match line {
                Line::Keys(line) | Line::Server(line) => line.starts_with(part),
            });
            found.unwrap_or_else(|| panic!("no {part}: {lines:?}"))
        };
        let places = [
            "cargo xtask dist",
            "jitctl keygen",
            "jitctl pki init",
            "apt install ./jit-agent_",
            "jit-agent init --signer",
            "systemctl enable --now jit-agent",
            "jitctl pki issue --dir pki --name agent --csr agent.csr",
            "systemctl reload jit-agent",
            "jit-agent enforce",
            "jit-agent confirm",
        ]
        .map(place);
        assert!(places.is_sorted(), "{places:?}: {lines:?}");
        let last = lines.last();
        assert!(matches!(last, Some(Line::Server(line)) if line.starts_with("jit-agent confirm")));
    }

    #[test]
    fn a_section_that_has_changed_is_an_error() {
        assert!(lines("# Nothing\n").is_err());
        let text = format!("{SECTION}\n{BY_HAND}\n```console\nno prompt\n```\n");
        assert!(lines(&text).unwrap_err().to_string().contains("no prompt"));
        assert!(lines(&format!("{SECTION}\n{BY_HAND}\n")).is_err());
    }
}
