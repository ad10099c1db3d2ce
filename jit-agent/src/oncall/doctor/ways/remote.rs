//! Ways to a shell on this host that the gate cannot see: agents that dial out and let people in by
//! their own connection, past every port. Only those that can be recognised for sure, and that run in
//! this network namespace: what a container's agent reaches comes in by an interface. Below a root
//! directory and a list of processes, so that a test can make them.

use std::{fs, io, path::Path};

use serde_json::Value;

use crate::{
    oncall::finding::Finding,
    system::{
        processes::{self, Process},
        tool::{ToolError, output},
    },
};

const CHECK: &str = "ways-around";

/// Azure Arc: the agent's settings as `azcmagent config` writes them, and its program.
const ARC_SETTINGS: &str = "var/opt/azcmagent/localconfig.json";
const ARC_PROGRAM: &str = "opt/azcmagent/bin/azcmagent";
const ARC_ENABLED: &str = "incomingconnections.enabled";
const ARC_PORTS: &str = "incomingconnections.ports";

const TAILSCALE: &str = "tailscaled";

/// Programs that let people in by a connection that they dial out themselves, and how to end each.
const PROGRAMS: [(&str, &str, &str); 11] = [
    (
        "amazon-ssm-agent",
        "AWS Systems Manager: Session Manager and Run Command",
        "systemctl disable --now amazon-ssm-agent (as a snap: snap stop --disable amazon-ssm-agent)",
    ),
    ("anydesk", "AnyDesk", "systemctl disable --now anydesk"),
    ("cloudflared", "Cloudflare Tunnel", "systemctl disable --now cloudflared"),
    ("code-tunnel", "the tunnel of Visual Studio Code", "code tunnel service uninstall"),
    ("frpc", "the tunnel frp", "systemctl disable --now frpc"),
    ("meshagent", "MeshCentral", "systemctl disable --now meshagent"),
    ("ngrok", "the tunnel ngrok", "systemctl disable --now ngrok"),
    ("rustdesk", "RustDesk", "systemctl disable --now rustdesk"),
    ("sshx", "the shared shell sshx", "end the process"),
    ("teamviewerd", "TeamViewer", "systemctl disable --now teamviewerd"),
    ("teleport", "Teleport", "systemctl disable --now teleport"),
];

/// The findings. `root`: the root directory. `proc`: where the kernel shows processes.
pub(super) fn findings(root: &Path, proc: &Path) -> Vec<Finding> {
    let mut processes = match processes::all(proc) {
        Ok(processes) => processes,
        Err(error) => {
            let why = format!("cannot list the processes in {}: {error}", proc.display());
            return vec![Finding::unseen(CHECK, why)];
        }
    };
    let known = |one: &Process| PROGRAMS.iter().any(|(program, ..)| one.is(program));
    processes.retain(|one| known(one) || one.is(TAILSCALE));
    processes.retain(|one| processes::shares_network(proc, one.id));
    let tailscale = processes.iter().any(|process| process.is(TAILSCALE));
    let tailscale = tailscale.then(|| output(&["tailscale"], &["debug", "prefs"]));
    let mut findings = running(&processes);
    findings
        .extend(arc(fs::read_to_string(root.join(ARC_SETTINGS)), root.join(ARC_PROGRAM).exists()));
    findings.extend(tailscale.and_then(tailscale_ssh));
    if findings.is_empty() {
        let ok = "no agent runs that is known to let people in past the gate";
        findings.push(Finding::ok(CHECK, ok));
    }
    findings
}

fn running(processes: &[Process]) -> Vec<Finding> {
    let found = PROGRAMS.iter().filter_map(|(program, what, end)| {
        let process = processes.iter().find(|process| process.is(program))?;
        Some(
            past(program, format!("{program} (process {}) runs: {what}", process.id))
                .fix(format!("close it: {end}"))
                .fix("or leave it, and let it in only those who may ask for grants"),
        )
    });
    found.collect()
}

/// `settings`: the file, where it is there.
fn arc(settings: io::Result<String>, installed: bool) -> Option<Finding> {
    let text = match settings {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !installed => return None,
        // Without the file the defaults count.
        Err(error) if error.kind() == io::ErrorKind::NotFound => "{}".to_owned(),
        Err(error) => return Some(arc_unseen(&error.to_string())),
    };
    let settings: Value = match serde_json::from_str(&text) {
        Ok(settings) => settings,
        Err(error) => return Some(arc_unseen(&error.to_string())),
    };
    let enabled = match settings.get(ARC_ENABLED) {
        Some(Value::Bool(enabled)) => *enabled,
        Some(Value::String(text)) => !text.eq_ignore_ascii_case("false"),
        _ => true,
    };
    if !enabled {
        return None;
    }
    let ports = ports(settings.get(ARC_PORTS));
    let ports = if ports.is_empty() {
        "to the ports that are set in Azure".to_owned()
    } else {
        format!("to {}", ports.join(", "))
    };
    Some(
        past(
            "azure arc",
            format!(
                "the Azure Arc agent lets connections in from Azure ({ARC_ENABLED}), {ports}; they \
                 come to the service from loopback"
            ),
        )
        .fix(format!("close it: azcmagent config set {ARC_ENABLED} false"))
        .fix(
            "or leave it, and give Microsoft.HybridConnectivity/endpoints/listCredentials/action in \
             Azure only to those who may ask for grants",
        ),
    )
}

fn arc_unseen(why: &str) -> Finding {
    Finding::unseen(CHECK, format!("cannot read /{ARC_SETTINGS}: {why}"))
        .about("azure arc")
        .fix("sudo azcmagent config list")
}

/// A list of numbers or texts, or one text.
fn ports(value: Option<&Value>) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.trim().to_owned()),
        _ => None,
    };
    match value {
        Some(Value::Array(all)) => all.iter().filter_map(text).collect(),
        Some(one) => {
            let all = text(one).unwrap_or_default();
            all.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
        }
        None => Vec::new(),
    }
}

/// Tailscale itself comes in by an interface that is gated; its own SSH server does not.
fn tailscale_ssh(preferences: Result<String, ToolError>) -> Option<Finding> {
    let name = "tailscale";
    let preferences = preferences.map_err(|error| error.to_string());
    let read = preferences
        .and_then(|text| serde_json::from_str::<Value>(&text).map_err(|error| error.to_string()));
    match read {
        Ok(preferences) if preferences.get("RunSSH") == Some(&Value::Bool(true)) => Some(
            past(name, "tailscaled has an SSH server of its own (Tailscale SSH)".to_owned())
                .fix("close it: tailscale set --ssh=false")
                .fix("or leave it, and let only those in by its rules who may ask for grants"),
        ),
        Ok(_) => None,
        Err(why) => Some(
            Finding::unseen(CHECK, format!("cannot say whether Tailscale SSH is on: {why}"))
                .about(name)
                .fix("tailscale debug prefs | grep RunSSH"),
        ),
    }
}

fn past(about: &str, seen: String) -> Finding {
    Finding::warning(CHECK, format!("{seen}: the gate does not see who comes in")).about(about)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oncall::finding::Level;

    /// A host with these files and processes.
    fn host(files: &[(&str, &str)], processes: &[&str]) -> Vec<Finding> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let proc = root.path().join("proc");
        for (line, id) in processes.iter().zip(700..) {
            let directory = proc.join(id.to_string());
            fs::create_dir_all(&directory).unwrap();
            let program = Path::new(line.split(' ').next().unwrap()).file_name().unwrap();
            let name: String = program.to_string_lossy().chars().take(15).collect();
            fs::write(directory.join("comm"), name + "\n").unwrap();
            fs::write(directory.join("cmdline"), line.replace(' ', "\0") + "\0").unwrap();
        }
        fs::create_dir_all(&proc).unwrap();
        findings(root.path(), &proc)
    }

    fn level(findings: &[Finding]) -> Level {
        let [one] = findings else { panic!("{findings:?}") };
        one.level
    }

    #[test]
    fn the_arc_agent_is_open_unless_it_is_closed() {
        let with = |text: &str| host(&[(ARC_SETTINGS, text)], &[]);
        for (text, says) in [
            ("{}", "to the ports that are set in Azure"),
            ("{\"incomingconnections.ports\": [\"22\", \"3389\"]}", "to 22, 3389;"),
            ("{\"incomingconnections.ports\": [22]}", "to 22;"),
            ("{\"incomingconnections.enabled\": \"true\", \"proxy.url\": \"\"}", "to the ports"),
        ] {
            let found = with(text);
            assert_eq!(level(&found), Level::Warning, "{text}");
            assert!(found[0].seen.contains(says), "{text}: {found:?}");
            assert!(found[0].fix[0].ends_with("incomingconnections.enabled false"), "{found:?}");
        }
        for closed in ["false", "\"false\"", "\"False\""] {
            let text = format!("{{\"incomingconnections.enabled\": {closed}}}");
            assert_eq!(level(&with(&text)), Level::Ok, "{text}");
        }
        assert_eq!(level(&with("{")), Level::Unseen);
        assert_eq!(level(&host(&[(ARC_PROGRAM, "")], &[])), Level::Warning, "the default");
    }

    #[test]
    fn programs_that_let_people_in_are_known_by_name_alone() {
        for line in ["/usr/bin/amazon-ssm-agent", "/opt/cloudflared tunnel run", "teleport start"] {
            let found = host(&[], &["/usr/sbin/sshd -D", line]);
            assert_eq!(level(&found), Level::Warning, "{line}");
            assert!(found[0].seen.contains("(process 701) runs"), "{found:?}");
        }
        let others = ["vi amazon-ssm-agent", "/usr/bin/teleporter", "/usr/sbin/sshd -D"];
        assert_eq!(level(&host(&[], &others)), Level::Ok);
    }

    #[test]
    fn tailscale_is_a_way_only_with_its_own_ssh() {
        let of = |text: &str| tailscale_ssh(Ok(text.to_owned())).map(|one| one.level);
        assert_eq!(of("{\"RunSSH\": true}"), Some(Level::Warning));
        assert_eq!(of("{\"RunSSH\": false}"), None);
        assert_eq!(of("no json"), Some(Level::Unseen));
        let missing = tailscale_ssh(Err(ToolError::Missing("tailscale".into())));
        assert_eq!(missing.map(|one| one.level), Some(Level::Unseen));
    }
}
