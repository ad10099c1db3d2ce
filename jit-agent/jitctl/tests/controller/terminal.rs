//! What happens on a terminal: a token is not shown, and a person is asked.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    process::{Command, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::{
    asking::view,
    server::{Controller, me, ok},
};

/// A command on a terminal of its own: waits for texts and types answers. Returns all that it showed.
fn on_a_terminal(command: &mut Command, steps: &[(&str, &str)]) -> (ExitStatus, String) {
    let keyboard: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
    let noctty = i32::try_from(OFlags::NOCTTY.bits()).unwrap();
    let screen =
        || OpenOptions::new().read(true).write(true).custom_flags(noctty).open(&name).unwrap();
    command.stdin(screen()).stdout(screen()).stderr(screen());
    let mut child = command.spawn().unwrap();
    // The last copies of its side, so that the end is seen.
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    command.stderr(std::process::Stdio::null());
    let mut keyboard = File::from(keyboard);
    let mut reader = keyboard.try_clone().unwrap();
    let (sender, shown) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = vec![0; 4096];
        // It fails when the other side is closed.
        while let Ok(count @ 1..) = reader.read(&mut bytes) {
            let read = bytes.iter().copied().take(count).collect::<Vec<u8>>();
            if sender.send(read).is_err() {
                return;
            }
        }
    });
    let mut all = String::new();
    let until = Instant::now() + Duration::from_secs(20);
    for (wait_for, answer) in steps {
        while !all.contains(wait_for) {
            let left = until.saturating_duration_since(Instant::now());
            let bytes = shown.recv_timeout(left).unwrap_or_else(|_| panic!("{wait_for}: {all}"));
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
        keyboard.write_all(answer.as_bytes()).unwrap();
    }
    for bytes in &shown {
        all.push_str(&String::from_utf8_lossy(&bytes));
    }
    (child.wait().unwrap(), all)
}

#[test]
fn a_token_that_is_typed_is_not_shown() {
    let controller = Controller::start();
    controller.says("GET /me", ok(&me()));
    let mut command = controller.command(&controller.login());
    let (status, shown) = on_a_terminal(&mut command, &[("token for", "jit_typed\r")]);
    assert!(status.success(), "{shown}");
    assert!(!shown.contains("jit_typed") && shown.contains("ana@example.org"), "{shown}");
    assert_eq!(controller.asked()[0].header("authorization"), "Bearer jit_typed");
    let mut command = controller.command(&controller.login());
    let (status, shown) = on_a_terminal(&mut command, &[("token for", "jit_x\x03")]);
    assert_eq!(status.code(), Some(64), "{shown}");
    assert!(controller.asked().is_empty());
}

#[test]
fn an_approval_is_asked_for_and_only_yes_is_yes() {
    let controller = Controller::with_login();
    let id = view("pending").id;
    controller.says(&format!("GET /requests/{id}"), ok(&view("pending")));
    controller.says(&format!("POST /requests/{id}/decision"), ok(&view("approved")));
    for (answer, code, calls) in [("n\r", 77, 1), ("\r", 77, 1), ("y\r", 0, 2)] {
        let mut command = controller.command(&format!("approve {id}"));
        let (status, shown) = on_a_terminal(&mut command, &[("Approve this? [y/N]", answer)]);
        assert_eq!(status.code(), Some(code), "{answer:?}: {shown}");
        assert!(shown.find("5f0c").unwrap() < shown.find("Approve this?").unwrap(), "{shown}");
        assert_eq!(controller.asked().len(), calls, "{answer:?}");
    }
}
