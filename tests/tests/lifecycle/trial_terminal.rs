//! `jit-agent enforce` at a terminal: what it shows and asks, and what becomes of the trial when the
//! person presses Ctrl-C or loses the SSH session.

use std::os::unix::process::ExitStatusExt as _;

use jit_tests::{agent::Site, terminal::Terminal};
use rustix::process::Signal;

use crate::trial::{audit, observing, recorded, reopened, said};

const CTRL_C: &str = "\x03";

fn asked(site: &Site, within: &str) -> Terminal {
    let mut command = site.command(&["enforce", "--confirm-within", within]);
    command.env_remove("SSH_CONNECTION");
    let terminal = Terminal::start(&site.host, &command, 120, 40);
    terminal.wait_for(|screen| screen.contains("? [y/N]"));
    let screen = terminal.screen();
    for says in [
        "Enforce now, on trial for ",
        "enforcing closes:",
        "[gate] mode observe -> enforce",
        "203.0.113.2 -> 22/tcp",
    ] {
        assert!(screen.contains(says), "{says}: {screen}");
    }
    terminal
}

/// Begins a trial, and waits for the countdown.
fn begun(site: &Site, within: &str) -> Terminal {
    let mut terminal = asked(site, within);
    terminal.press("y\n");
    terminal.wait_for(|screen| screen.contains(" left to confirm"));
    let screen = terminal.screen();
    assert!(screen.contains("ENFORCING ON TRIAL for "), "{screen}");
    assert!(screen.contains("open a NEW SSH session"), "{screen}");
    terminal
}

fn left(site: &Site) -> u64 {
    site.status().0["trial"]["left_ms"].as_u64().unwrap_or(0)
}

#[test]
fn every_answer_but_yes_and_ctrl_c_at_the_question_change_nothing() {
    let site = observing("");
    for answer in ["n\n", "\n", "yess\n", "\x04"] {
        let mut terminal = asked(&site, "30s");
        terminal.press(answer);
        assert_eq!(terminal.wait().code(), Some(1), "{answer:?}");
        terminal.wait_for(|screen| screen.contains("nothing changed"));
    }
    let mut terminal = asked(&site, "30s");
    terminal.press(CTRL_C);
    assert_eq!(terminal.wait().signal(), Some(2), "{}", terminal.screen());
    assert!(site.stranger_gets_in(0, 22));
    assert!(site.status().0["trial"].is_null() && !site.path("state/configuration.trial").exists());
    assert_eq!(audit(&site, "N002"), 0);
}

#[test]
fn ctrl_c_in_the_countdown_says_that_the_trial_goes_on_and_it_does() {
    let site = observing("");
    let mut terminal = begun(&site, "5m");
    terminal.press(CTRL_C);
    assert_eq!(terminal.wait().code(), Some(1), "{}", terminal.screen());
    terminal.wait_for(|screen| screen.contains("THE TRIAL GOES ON, 4m"));
    let screen = terminal.screen();
    assert!(screen.contains("sudo jit-agent confirm` in a NEW SSH session"), "{screen}");
    assert!(terminal.is_given_back());
    site.assert_closed_to_all();
    assert!(left(&site) > 200_000);
    // Another terminal sees the end.
    let (code, text) = said(&site, &["confirm", "--from-console"], None);
    assert_eq!(code, 0, "{text}");
    site.assert_closed_to_all();
}

#[test]
fn the_countdown_ends_with_what_became_of_the_trial() {
    let site = observing("");
    let mut terminal = begun(&site, "10s");
    assert_eq!(terminal.wait().code(), Some(1), "{}", terminal.screen());
    terminal.wait_for(|screen| screen.contains("NOT CONFIRMED: the gate observes again"));
    assert!(!terminal.screen().contains("left to confirm"), "{}", terminal.screen());
    assert!(site.stranger_gets_in(0, 22));
    let mut terminal = begun(&site, "5m");
    assert_eq!(said(&site, &["confirm", "--from-console"], None).0, 0);
    assert_eq!(terminal.wait().code(), Some(0), "{}", terminal.screen());
    terminal.wait_for(|screen| screen.contains("confirmed: the gate ENFORCES from now on"));
}

#[test]
fn a_lost_session_leaves_the_trial_running_and_it_ends_without_a_confirmation() {
    let site = observing("");
    let mut terminal = begun(&site, "30s");
    // As sshd's kernel does when the connection is gone.
    terminal.signal(Signal::HUP);
    assert_eq!(terminal.wait().signal(), Some(1), "{}", terminal.screen());
    site.assert_closed_to_all();
    assert!(left(&site) > 0, "{}", site.log());
    reopened(&site);
    let (status, code) = site.status();
    assert_eq!((code, status["mode"].as_str()), (2, Some("observe")), "{status}");
    assert_eq!(recorded(&site, "B004"), 1);
}
