//! `jit-agent confirm`: keeps the configuration that is on trial.
//!
//! It has to come by an SSH session that was opened after the trial began: that shows that people still
//! get in. Where `jit-agent enforce` began the trial, it writes mode = "enforce" into the file first.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use jit_client::{exit::Exit, local::LocalClient};
use jit_proto::v1;

use crate::{
    config::enforcing_text,
    oncall::{
        agent::{reach, undone},
        failure::Failure,
        output::{complain, print},
        ssh_session::SshSession,
    },
    system::sys::{self, FileError},
};

/// What it does, for errors.
const WHAT: &str = "confirm";

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
    let v1::ConfirmResponse { file: text } = ask(&mut client, asked.clone()).await?;
    let path = PathBuf::from(status.configuration.unwrap_or_default().path);
    let before = if text.is_empty() { None } else { Some(write_enforcing(&path, &text)?) };
    let confirmed = ask(&mut client, v1::ConfirmRequest { dry_run: false, ..asked }).await;
    if let Err(error) = confirmed {
        if let Some(before) = before
            && let Err(error) = replace(&path, &before)
        {
            complain(&format!(
                "{error}: it says mode = \"enforce\", and the gate does not enforce"
            ));
        }
        return Err(error);
    }
    let file = match before {
        Some(_) => format!("; {} says mode = \"enforce\" now", path.display()),
        None => String::new(),
    };
    print(&format!("confirmed: the configuration on trial is in force from now on{file}\n"))?;
    Ok(Exit::Success.into())
}

async fn ask(
    client: &mut LocalClient,
    asked: v1::ConfirmRequest,
) -> Result<v1::ConfirmResponse, Failure> {
    let answer = client.confirm(asked).await;
    answer.map(tonic::Response::into_inner).map_err(|status| undone(WHAT, status))
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

/// Replaces a file as a whole. Its owner and mode stay; a link to it stays a link.
fn replace(path: &Path, text: &str) -> Result<(), FileError> {
    let replaced = || -> io::Result<()> {
        let path = fs::canonicalize(path)?;
        let metadata = fs::metadata(&path)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".jit-agent-new");
        let beside = path.with_file_name(name);
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written =
            write_beside(&beside, &metadata, text).and_then(|()| fs::rename(&beside, &path));
        if written.is_err() {
            drop(fs::remove_file(&beside));
        }
        written?;
        sys::sync_directory_of(&path)
    };
    replaced().map_err(|error| FileError::Io { verb: "write", path: path.to_owned(), error })
}

fn write_beside(beside: &Path, like: &fs::Metadata, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(beside)?;
    fchown(&file, Some(like.uid()), Some(like.gid()))?;
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_through_its_link() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("config.toml"), directory.path().join("link"));
        fs::write(&path, "before").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        replace(&link, "after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(replace(&directory.path().join("none"), "").is_err());
    }

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
