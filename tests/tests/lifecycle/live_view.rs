//! `status --watch` on a real terminal: it draws, obeys keys, says what is in force when the agent
//! hangs or dies, and gives the terminal back whatever ends it.

use std::{
    env,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use jit_client::{status::Style, watch};
use jit_proto::v1;
use jit_tests::{
    agent::{CLIENT, Site},
    netns::Namespace,
    terminal::{SOON, Terminal},
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(600);
/// The longest time until the view says that no agent answers.
const SAYS_SO: Duration = Duration::from_secs(2);

fn view(site: &Site) -> Terminal {
    let view = Terminal::start(&site.host, &site.command(&["status", "--watch"]), 80, 24);
    view.wait_for(|screen| screen.contains("ENFORCING") && screen.contains("q quit"));
    assert!(view.is_taken());
    view
}

fn is_enforcing(screen: &str) -> bool {
    screen.lines().next().is_some_and(|line| line.ends_with("ENFORCING"))
}

#[track_caller]
fn wait_until(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < SOON);
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_live_view_draws_and_obeys_keys() {
    let mut site = Site::new();
    site.start();
    site.admit(&[CLIENT[0]], LONG);
    let mut view = view(&site);
    view.wait_for(|screen| screen.contains("grants   1 live") && screen.contains(CLIENT[0]));
    // A new grant, drops and the time left come by themselves.
    site.admit(&[CLIENT[1]], LONG * 2);
    view.wait_for(|screen| screen.contains("grants   2 live"));
    assert!(!site.stranger_opens(0, 22));
    view.wait_for(|screen| screen.contains("a second") && screen.contains("22/tcp"));
    let before = view.screen();
    view.wait_for(|screen| screen != before);
    let place = |view: &Terminal, text: &str| view.screen().find(text);
    assert!(place(&view, CLIENT[0]) < place(&view, CLIENT[1]), "{}", view.screen());
    view.press("/ana@");
    view.wait_for(|screen| screen.contains("filter: ana@_"));
    view.press("\r/\x7f\x7f\x7f\x7f2001:db8:1::/64\r");
    view.wait_for(|screen| screen.contains(CLIENT[1]) && !screen.contains(CLIENT[0]));
    view.press("\x1b");
    view.wait_for(|screen| screen.contains(CLIENT[0]));
    view.resize(120, 40);
    view.wait_for(|screen| screen.lines().nth(39).is_some_and(|line| line.starts_with("q quit")));
    view.press("q");
    assert_eq!(view.wait().code(), Some(0));
    wait_until(|| view.is_given_back());
}

#[test]
fn the_live_view_says_within_two_seconds_that_the_agent_hangs_or_is_dead_and_comes_back() {
    let mut site = Site::new();
    site.start();
    site.admit(&[CLIENT[0]], LONG);
    let mut view = view(&site);
    for (signal, says) in
        [(Signal::STOP, "the agent does not answer"), (Signal::KILL, "no agent answers")]
    {
        view.wait_for(|screen| is_enforcing(screen) && screen.contains(CLIENT[0]));
        site.signal(signal);
        let took = view.wait_for(|screen| screen.contains(says));
        assert!(took < SAYS_SO, "{took:?}\n{}", view.screen());
        // What the kernel holds, with the name that the database has.
        assert!(view.first_line().ends_with("DEGRADED"), "{}", view.screen());
        assert!(view.screen().contains(CLIENT[0]) && view.screen().contains("ana@"));
        if signal == Signal::STOP {
            site.signal(Signal::CONT);
        } else {
            site.end(Signal::KILL);
            site.start();
        }
    }
    view.wait_for(is_enforcing);
    // The exit code is the state that was shown last.
    site.end(Signal::KILL);
    view.wait_for(|screen| !is_enforcing(screen));
    view.press("\x03");
    assert_eq!(view.wait().code(), Some(1));
}

#[test]
fn whatever_ends_the_live_view_gives_the_terminal_back() {
    let mut site = Site::new();
    site.start();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let mut view = view(&site);
        view.signal(signal);
        assert_eq!(view.wait().code(), Some(0), "{signal:?}");
        wait_until(|| view.is_given_back());
    }
    let mut view = view(&site);
    for suspend in [true, false] {
        if suspend {
            view.signal(Signal::TSTP)
        } else {
            view.press("\x1a")
        }
        wait_until(|| view.is_stopped() && view.is_given_back());
        view.signal(Signal::CONT);
        view.wait_for(|screen| screen.contains("q quit"));
        wait_until(|| view.is_taken());
    }
    // Stopped and continued by others, which may have changed the terminal.
    view.signal(Signal::STOP);
    wait_until(|| view.is_stopped());
    view.signal(Signal::CONT);
    view.press("q");
    assert_eq!(view.wait().code(), Some(0));
    wait_until(|| view.is_given_back());
}

/// Set: this process is the view whose asking panics.
const PANICS: &str = "JIT_TEST_VIEW_PANICS";

#[test]
fn a_panic_gives_the_terminal_back_before_it_says_why() {
    if env::var_os(PANICS).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = v1::StatusResponse { state: "enforcing".into(), ..Default::default() };
        let asks = async || panic!("the reason of this panic");
        let _never = runtime.block_on(watch::watch(Style::Plain, status, asks));
        return;
    }
    let mut again = Command::new(env::current_exe().unwrap());
    let name = "live_view::a_panic_gives_the_terminal_back_before_it_says_why";
    again.args(["--exact", name, "--nocapture"]).env(PANICS, "1").env("RUST_BACKTRACE", "0");
    let namespace = Namespace::new();
    let mut view = Terminal::start(&namespace, &again, 80, 24);
    view.wait_for(|screen| screen.contains("ENFORCING"));
    assert!(!view.wait().success());
    wait_until(|| view.is_given_back());
    view.wait_for(|screen| screen.contains("the reason of this panic"));
}

#[test]
fn without_a_terminal_the_live_view_is_refused() {
    let mut site = Site::new();
    site.start();
    let refused = |arguments: &[&str], says: &str| {
        let output = site.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{errors}");
        assert!(errors.contains(says) && output.stdout.is_empty(), "{errors}");
    };
    refused(&["status", "--watch"], "--watch needs a terminal");
    refused(&["status", "--watch", "--json"], "cannot be used with");
    refused(&["status", "--watch", "--all"], "cannot be used with");
    let mut command = site.command(&["status", "--watch"]);
    command.env("TERM", "dumb");
    let mut dumb = Terminal::start(&site.host, &command, 80, 24);
    assert_eq!(dumb.wait().code(), Some(64));
    dumb.wait_for(|screen| screen.contains("TERM is dumb"));
    assert!(dumb.is_given_back());
}
