//! `jit-agent confirm`: keeps the configuration that is on trial.
//!
//! It has to come by an SSH session that was opened after the trial began: that shows that people still
//! get in. Where `jit-agent enforce` began the trial, it writes mode = "enforce" into the file first.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use jit_client::{exit::Exit, local::is_closed};
use jit_proto::v1;
use tonic::{Code, Status};

use crate::{
    config::{Glimpse, enforcing_text},
    oncall::{
        agent::{Asked, ask as ask_agent, reach, undone},
        failure::Failure,
        output::{complain, print},
        ssh_session::SshSession,
    },
    system::{replacement::replace, sys},
};

/// What it does, for errors.
const WHAT: &str = "confirm";
/// The longest wait until it is known what became of a trial: a disk that hangs holds its end up by ten
/// seconds.
const UNKNOWN: Duration = Duration::from_secs(15);
/// The time between two looks meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// Arguments of `confirm`.
#[derive(Args, Clone, Debug)]
pub struct ConfirmArgs {
    /// At the console of the host, not over SSH. This does not show that anybody can still log in over
    /// the network.
    #[arg(long)]
    from_console: bool,
}

/// Checks the session, writes the file, and confirms.
pub async fn run(config: &Path, args: &ConfirmArgs) -> Result<ExitCode, Failure> {
    let own = SshSession::own();
    let mut client = reach(config).await?;
    let status = client.status(v1::StatusRequest {}).await;
    let status = status.map_err(|status| undone(WHAT, status))?.into_inner();
    let session = if args.from_console { None } else { own };
    match own {
        None if !args.from_console => {
            return Err(Failure::Usage(
                "no SSH session is above this command: confirm in a new SSH session; or at the host's \
                 console with --from-console, which does not show that anybody can still log in over \
                 the network"
                    .into(),
            ));
        }
        Some(own) if args.from_console && is_protected(&status, own.local.port()) => {
            return Err(Failure::Usage(format!(
                "you came by SSH, from {}: open a new SSH session and confirm there, without \
                 --from-console",
                own.peer.ip()
            )));
        }
        _ => {}
    }
    let asked = v1::ConfirmRequest {
        session: session.map(SshSession::message),
        from_console: args.from_console,
        dry_run: true,
    };
    let dry_run = client.confirm(asked.clone()).await;
    let v1::ConfirmResponse { file: text } =
        dry_run.map_err(|status| undone(WHAT, status))?.into_inner();
    let begun = status.trial.map_or(0, |trial| trial.begun_ms);
    let path = PathBuf::from(status.configuration.unwrap_or_default().path);
    let before = if text.is_empty() { None } else { Some(write_enforcing(&path, &text)?) };
    let confirmed = client.confirm(v1::ConfirmRequest { dry_run: false, ..asked }).await;
    if let Err(status) = confirmed {
        let end = if is_answer(&status) { End::Other } else { outcome(config, begun).await };
        match (end, before) {
            (End::Confirmed, _) => {}
            (End::Other, Some(before)) => {
                if let Err(error) = replace(&path, &before) {
                    complain(&format!(
                        "{error}: it says mode = \"enforce\", and the gate does not enforce"
                    ));
                }
                return Err(undone(WHAT, status));
            }
            (End::Other, None) => return Err(undone(WHAT, status)),
            (End::Unknown, _) => {
                // A file that says "enforce" is right in both cases: unless the trial was confirmed, no
                // start takes it.
                complain(
                    "it is not known whether the trial is confirmed: `jit-agent status`, and `jit-agent \
                     confirm` again if it goes on",
                );
                return Err(undone(WHAT, status));
            }
        }
    }
    let file = if text.is_empty() {
        String::new()
    } else {
        format!("; {} says mode = \"enforce\" now", path.display())
    };
    print(&format!("confirmed: the configuration on trial is in force from now on{file}\n"))?;
    Ok(Exit::Success.into())
}

/// What became of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It was confirmed.
    Confirmed,
    /// It was not.
    Other,
    /// The agent does not say.
    Unknown,
}

/// Whether the agent itself says no. Otherwise it may have confirmed the trial, and the answer was lost
/// or came too late.
fn is_answer(status: &Status) -> bool {
    let lost = [Code::Cancelled, Code::DeadlineExceeded, Code::Unknown].contains(&status.code());
    !lost && !is_closed(status)
}

/// Asks what became of the trial that began then, until it is known.
async fn outcome(config: &Path, begun: i64) -> End {
    let socket = Glimpse::of(config).paths.socket();
    let end = Instant::now() + UNKNOWN;
    while Instant::now() < end {
        let asked = ask_agent(&socket, async |client| client.status(v1::StatusRequest {}).await);
        if let Ok(Asked::Answered(status)) = asked.await {
            let trial = status.trial.filter(|trial| trial.begun_ms == begun).unwrap_or_default();
            match trial.ended.as_str() {
                "confirmed" => return End::Confirmed,
                // An agent that was started anew does not know of it any more.
                "" if trial.begun_ms == 0 => return End::Unknown,
                "" => {}
                _ => return End::Other,
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    End::Unknown
}

fn is_protected(status: &v1::StatusResponse, port: u16) -> bool {
    status.ports.iter().filter_map(|port| port.range.as_ref()).any(|range| {
        range.protocol() == v1::Protocol::Tcp
            && (range.first..=range.last).contains(&u32::from(port))
    })
}

/// Writes the file with every mode on "enforce", if it is that of the trial. Returns its text before.
fn write_enforcing(path: &Path, text: &str) -> Result<String, Failure> {
    let before = sys::read_trusted(path)?;
    if enforcing_text(&before).as_deref() != Some(text) {
        return Err(Failure::Undone {
            what: WHAT,
            error: format!(
                "{} was changed since the trial began: put it back, or `systemctl reload jit-agent` and \
                 confirm what it says now",
                path.display()
            )
            .into(),
        });
    }
    replace(path, text)?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_that_is_another_than_that_of_the_trial_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        fs::write(&path, "[gate]\nmode = \"observe\"\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(write_enforcing(&path, "[gate]\nmode = \"enforce\" # \n").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "[gate]\nmode = \"observe\"\n");
        let text = "[gate]\nmode = \"enforce\"\n";
        assert_eq!(write_enforcing(&path, text).unwrap(), "[gate]\nmode = \"observe\"\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        // A second try after a crash of the first.
        assert_eq!(write_enforcing(&path, text).unwrap(), text);
    }
}
