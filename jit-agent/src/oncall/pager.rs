//! Shows a text that is longer than the terminal by a pager.
//!
//! A pager can run other programs. Who may run this command by sudo, and no other, must not get a
//! shell by it: under sudo `$PAGER` does not count, and `less` is in its secure mode.

use std::{
    env, io,
    io::{ErrorKind, Write as _},
    process::{Child, Command, Stdio},
};

use jit_client::status::Page;
use tokio::signal::unix::{SignalKind, signal};

use crate::oncall::output::print;

/// Prints a text; by a pager if standard output is a terminal that it does not fit on.
pub(super) fn print_paged(text: &str, page: Page) -> io::Result<()> {
    let fits = page.height.is_none_or(|height| text.lines().count() <= height);
    if fits {
        return print(text);
    }
    // Ctrl-C is for the pager. Without a handler it would end this process and leave the pager.
    let _handled = signal(SignalKind::interrupt());
    match start(pager(env::var("PAGER").ok(), env::var_os("SUDO_UID").is_some())) {
        Some(child) => feed(child, text),
        None => print(text),
    }
}

/// The command line of the pager; `None`: no pager is wanted.
fn pager(chosen: Option<String>, sudo: bool) -> Option<Command> {
    match chosen.filter(|chosen| !sudo && !chosen.trim().is_empty()) {
        Some(chosen) if chosen.trim() == "cat" => None,
        Some(chosen) => {
            let mut command = Command::new("sh");
            command.args(["-c", &chosen]);
            Some(command)
        }
        None => {
            let mut command = Command::new("less");
            command.arg("-FRX").env("LESSSECURE", "1").env_remove("LESSOPEN");
            Some(command)
        }
    }
}

fn start(command: Option<Command>) -> Option<Child> {
    command?.stdin(Stdio::piped()).spawn().ok()
}

/// Writes the text to the pager, and waits for its end. One that ends early is not an error.
fn feed(mut child: Child, text: &str) -> io::Result<()> {
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let ended = child.wait()?;
    match written {
        // The shell did not find it.
        _ if ended.code() == Some(127) => print(text),
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(chosen: Option<&str>, sudo: bool) -> Option<String> {
        let command = pager(chosen.map(str::to_owned), sudo)?;
        Some(command.get_program().to_string_lossy().into_owned())
    }

    #[test]
    fn under_sudo_the_pager_is_less_in_its_secure_mode() {
        assert_eq!(program(Some("most -x"), false).as_deref(), Some("sh"));
        assert_eq!(program(Some("cat"), false), None);
        for (chosen, sudo) in
            [(Some("most"), true), (None, true), (None, false), (Some(" "), false)]
        {
            assert_eq!(program(chosen, sudo).as_deref(), Some("less"), "{chosen:?}");
            let command = pager(chosen.map(str::to_owned), sudo).unwrap();
            let secure = command.get_envs().any(|(name, value)| {
                name == "LESSSECURE" && value.is_some_and(|value| value == "1")
            });
            assert!(secure, "{command:?}");
        }
    }
}
