//! Whether the agent runs and answers, whether it is this binary's version, and what it reports to
//! be wrong. The details of that are `status`'s business.

use jit_proto::v1;

use super::{
    finding::Finding,
    host::{Agent, Host},
    interfaces::is_about,
    process::Process,
};
use crate::{oncall::agent::Silence, system::local_ports::LocalPorts};

/// The findings.
pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut found = vec![agent(host)];
    let Ok(status) = &host.status else {
        return found;
    };
    if host.agent == Agent::Answers {
        let replaced = host.process.as_ref().is_some_and(|process| process.replaced);
        found.push(version(&status.version, env!("CARGO_PKG_VERSION"), replaced));
    }
    if !host.is_bare() {
        found.extend(problems(host, status));
    }
    found
}

fn agent(host: &Host) -> Finding {
    const NAME: &str = "agent";
    let socket = host.glimpse.paths.socket();
    let socket = socket.display();
    let runs = host.process.as_ref().map(|process| format!("process {}", process.pid));
    let gate = gate(host.status.as_ref().ok());
    match (host.agent, &host.process) {
        (Agent::Answers, _) => {
            let by = runs.map(|runs| format!(", {runs}")).unwrap_or_default();
            Finding::ok(NAME, format!("it answers{by}"))
        }
        (Agent::Denied, _) => Finding::unseen(
            NAME,
            format!("this user may not open {socket}: use sudo, or join the group jit-agent"),
        ),
        (Agent::Silent(Silence::Closed), _) => {
            Finding::warning(NAME, Silence::Closed.text()).fix("sudo jit-agent doctor")
        }
        (Agent::Silent(Silence::Dead), None) if host.is_bare() => {
            let file = host.path.display();
            Finding::warning(NAME, "it is not installed: every port is open")
                .fix(format!("write {file}, `jit-agent check`, `systemctl enable --now jit-agent`"))
        }
        (Agent::Silent(Silence::Dead), None) => {
            let start = match &host.config {
                Ok(_) => "systemctl start jit-agent; journalctl -u jit-agent -n 50",
                Err(_) => "jit-agent check; then systemctl start jit-agent",
            };
            Finding::failure(NAME, format!("no agent runs; {gate}")).fix(start)
        }
        (Agent::Silent(_), Some(Process { pid, state: Some('T'), .. })) => {
            let seen = format!("process {pid} is stopped (SIGSTOP, a debugger); {gate}");
            Finding::failure(NAME, seen).fix(format!("kill -CONT {pid}"))
        }
        (Agent::Silent(silence), process) => {
            let who = process.as_ref().map_or("it".to_owned(), |_| runs.unwrap_or_default());
            let how = match silence {
                Silence::Dead => format!("{who} holds the gate and does not serve {socket}"),
                Silence::Closed | Silence::Hung => format!("{who} does not answer on {socket}"),
            };
            Finding::failure(NAME, format!("{how}; {gate}"))
                .fix("systemctl restart jit-agent; journalctl -u jit-agent -n 50")
        }
    }
}

/// What holds without an agent.
fn gate(status: Option<&v1::StatusResponse>) -> &'static str {
    match status.map(|status| status.state.as_str()) {
        None => "only root can see what the kernel enforces",
        Some("not_enforcing") => "no port is closed",
        Some(_) => "the gate stays in force, and nothing new opens",
    }
}

/// `replaced`: the file that the agent was started from is gone.
fn version(runs: &str, own: &str, replaced: bool) -> Finding {
    const NAME: &str = "version";
    let restart = "systemctl restart jit-agent";
    if runs != own {
        return Finding::warning(
            NAME,
            format!("the agent that runs is {runs}, this file is {own}"),
        )
        .fix(restart);
    }
    if replaced {
        let seen = "the file that the agent was started from was replaced: it runs the old one";
        return Finding::warning(NAME, seen).fix(restart);
    }
    Finding::ok(NAME, format!("the agent and this file are {own}"))
}

/// What `status` reports that no other check looks at.
fn problems(host: &Host, status: &v1::StatusResponse) -> Vec<Finding> {
    let local = LocalPorts::read().ok().zip(host.config.as_ref().ok());
    let local = local.map(|(ports, config)| ports.warnings(config.policy.sections()));
    let silence = match host.agent {
        Agent::Silent(silence) => Some(silence.text()),
        Agent::Answers | Agent::Denied => None,
    };
    let open = status.state == "not_enforcing";
    let is_elsewhere = |text: &str| {
        status.interfaces.iter().any(|interface| is_about(text, &interface.name))
            || silence.is_some_and(|silence| text.starts_with(silence))
            || local.iter().flatten().any(|warning| warning == text)
            // The certificates' own checks say more.
            || text.starts_with("the agent's certificate ")
            || text.ends_with("[trial]")
            || text.starts_with("the file on disk is not in force")
            || text.starts_with("configuration on disk refused")
            || text.starts_with("the clock says ")
    };
    let problems = status.problems.iter().map(|text| (open, text));
    let soon = status.soon.iter().map(|text| (false, text));
    let mut found: Vec<_> = problems
        .chain(soon)
        .filter(|(_, text)| !is_elsewhere(text))
        .map(|(open, text)| {
            let finding = if open { Finding::failure } else { Finding::warning };
            finding("status", text).fix("jit-agent status")
        })
        .collect();
    if found.is_empty() && host.agent == Agent::Answers {
        found.push(Finding::ok("status", "it reports nothing else"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn another_version_or_a_replaced_file_asks_for_a_restart() {
        for (runs, own, replaced, level) in [
            ("0.1.0", "0.1.0", false, Level::Ok),
            ("0.1.0", "0.2.0", false, Level::Warning),
            ("0.1.0", "0.1.0", true, Level::Warning),
        ] {
            let finding = version(runs, own, replaced);
            assert_eq!(finding.level, level, "{finding:?}");
            assert_eq!(finding.fix.is_empty(), level == Level::Ok, "{finding:?}");
        }
    }
}
