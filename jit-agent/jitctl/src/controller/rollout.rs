//! One rollout: how it goes, with a line of progress, and what it came to, with the hosts that count.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use jit_client::{
    controller::{
        call::Call,
        types::{RolloutHostView, RolloutView},
    },
    exit::Exit,
    status::Page,
    text::printable,
};
use serde::Serialize;

use super::{Output, session::Session, wait::bar};
use crate::{
    failure::Failure,
    many::worst,
    table::{Cell, Table, line, word_line},
    text,
};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// Between two questions while the controller does not answer.
const AGAIN: Duration = Duration::from_secs(2);
/// The most failures in a row before this gives up: the controller may be starting again.
const PATIENCE: u32 = 15;
/// States of hosts at which a rollout halts.
const BAD: [&str; 3] = ["degraded", "refused", "silent"];

/// A rollout as it is now.
pub(super) fn read(id: &str) -> Call {
    Call::get(["rollouts", id])
}

/// Waits until the rollout does not go on any more, or the time is up. Returns what it is then.
///
/// A person at a terminal sees a bar; a pipe gets a line whenever something has changed, unless JSON is
/// what it gets in the end.
pub(super) async fn ended(
    session: &Session,
    mut view: RolloutView,
    most: Duration,
    json: bool,
) -> Result<RolloutView, Failure> {
    let bar = bar();
    let until = Instant::now() + most;
    let (mut failures, mut before) = (0, String::new());
    loop {
        let sentence = sentence(&view);
        draw(&bar, &view, &sentence);
        if bar.is_hidden() && !json && sentence != before {
            text::print(&format!("{sentence}\n"))?;
        }
        before = sentence;
        if view.state != "running" || Instant::now() >= until {
            break;
        }
        tokio::time::sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
        match session.fetch::<RolloutView>(read(&view.id)).await {
            Ok(now) => (view, failures) = (now, 0),
            Err(failure) if failure.exit == Exit::Unavailable && failures < PATIENCE => {
                failures += 1;
                bar.set_message(format!("the controller does not answer ({failures})"));
                tokio::time::sleep(AGAIN).await;
            }
            Err(failure) => {
                bar.finish_and_clear();
                return Err(failure);
            }
        }
    }
    bar.finish_and_clear();
    Ok(view)
}

fn draw(bar: &ProgressBar, view: &RolloutView, sentence: &str) {
    bar.set_length(view.counts.iter().map(|count| count.hosts).sum::<u64>().max(1));
    bar.set_position(answered(view));
    bar.set_message(sentence.to_owned());
}

/// Hosts that have answered for good.
fn answered(view: &RolloutView) -> u64 {
    let over = |state: &str| state == "applied" || BAD.contains(&state);
    view.counts.iter().filter(|count| over(&count.state)).map(|count| count.hosts).sum()
}

/// `2 of 3: 10%`: the wave that it is at.
pub(super) fn wave(view: &RolloutView) -> String {
    let name = usize::try_from(view.wave).ok().and_then(|number| view.waves.get(number));
    let name = name.map(|name| format!(": {name}")).unwrap_or_default();
    printable(&format!("{} of {}{name}", view.wave.saturating_add(1), view.waves.len()))
}

/// How it goes, in a few words.
pub(super) fn sentence(view: &RolloutView) -> String {
    if view.state != "running" {
        let why = if view.why.is_empty() { String::new() } else { format!(": {}", view.why) };
        return printable(&format!("{}{why}", view.state));
    }
    let waves = u64::try_from(view.waves.len()).unwrap_or(u64::MAX);
    let here = view.counts.iter().filter(|count| count.wave == view.wave);
    let all = here.clone().map(|count| count.hosts).sum::<u64>();
    let parts: Vec<_> = here.map(|count| format!("{} {}", count.hosts, count.state)).collect();
    let applied = view.counts.iter().filter(|count| count.wave == view.wave);
    let applied = applied.filter(|count| count.state == "applied").map(|count| count.hosts);
    let rest = match all == applied.sum::<u64>() {
        true if all > 0 && view.wave + 1 < waves => {
            format!("; the next begins {} after the last host", view.pause)
        }
        _ => String::new(),
    };
    printable(&format!("wave {}: {}{rest}", wave(view), parts.join(", ")))
}

/// A rollout and its hosts.
#[derive(Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    view: RolloutView,
    hosts: Vec<RolloutHostView>,
}

impl Shown {
    /// With its hosts.
    pub(super) async fn of(session: &Session, view: RolloutView) -> Result<Self, Failure> {
        let call = Call::get(["rollouts", &view.id, "hosts"]).query("limit", 500);
        Ok(Self { hosts: session.list(call, None).await?, view })
    }

    /// Prints it; `all`: also the hosts that are as they should be.
    pub(super) fn print(&self, all: bool, output: Output) -> Result<(), Failure> {
        if output.json {
            text::print_pretty(self)
        } else {
            text::print(&self.text(all, Page::of_stdout(output.colours.style())))
        }
    }

    fn text(&self, all: bool, page: Page) -> String {
        let Self { view, hosts } = self;
        let mut out = [
            line(page, "rollout", &view.id),
            word_line(page.style, "state", &view.state, &view.why),
            line(page, "policy", &view.policy),
            line(page, "by", &format!("{} at {}", view.author, view.created)),
            line(page, "wave", &format!("{}, since {}", wave(view), view.wave_since)),
        ]
        .concat();
        let states = ["applied", "waiting", "signing", "pushed", "refused", "degraded", "silent"];
        let mut table = Table::new(&[
            "WAVE",
            "SELECTS",
            "APPLIED",
            "WAITING",
            "ON THE WAY",
            "HALTED IT",
            "SKIPPED",
        ]);
        for (number, name) in (0_u64..).zip(&view.waves) {
            let in_state = |wanted: &[&str]| {
                let these = view.counts.iter().filter(|count| count.wave == number);
                let these = these.filter(|count| wanted.contains(&count.state.as_str()));
                Cell::from(these.map(|count| count.hosts).sum::<u64>().to_string())
            };
            table.row([
                (number + 1).to_string().into(),
                name.as_str().into(),
                in_state(&states[..1]),
                in_state(&states[1..2]),
                in_state(&states[2..4]),
                in_state(&states[4..]),
                in_state(&["skipped"]),
            ]);
        }
        out += &format!("\n{}", table.text(page));
        let counts = |host: &&RolloutHostView| {
            all || BAD.contains(&host.state.as_str())
                || matches!(host.state.as_str(), "signing" | "pushed")
        };
        let mut table = Table::new(&["HOST", "WAVE", "STATE", "VERSION", "ANSWER"]);
        for host in hosts.iter().filter(counts) {
            let answer = match (host.word.as_str(), host.detail.as_str()) {
                ("" | "ok", detail) => detail.to_owned(),
                (word, "") => word.to_owned(),
                (word, detail) => format!("{word}: {detail}"),
            };
            let version = if host.version > 0 { host.version.to_string() } else { String::new() };
            table.row([
                host.host.as_str().into(),
                (host.wave + 1).to_string().into(),
                Cell::word(&host.state),
                version.into(),
                answer.into(),
            ]);
        }
        if !table.is_empty() {
            out += &format!("\n{}", table.text(page));
        }
        out += &match view.state.as_str() {
            "halted" => format!(
                "\nMend what halted it, then: jitctl rollouts resume {id}\nOr give it up: jitctl \
                 rollouts abort {id}\n",
                id = printable(&view.id)
            ),
            "running" => {
                format!("\nIt goes on by itself: jitctl rollouts watch {}\n", printable(&view.id))
            }
            _ => String::new(),
        };
        out
    }

    /// 0: every host has the policy; otherwise the worst that a host says, or that it still goes on.
    pub(super) fn exit(&self) -> Exit {
        let of_host = |host: &RolloutHostView| match host.state.as_str() {
            "degraded" => Exit::Degraded,
            "refused" => Exit::Permission,
            "silent" => Exit::Unavailable,
            _ => Exit::Success,
        };
        match self.view.state.as_str() {
            "done" => Exit::Success,
            "halted" => match worst(self.hosts.iter().map(of_host)) {
                Exit::Success => Exit::Permission,
                exit => exit,
            },
            "aborted" => Exit::Permission,
            _ => Exit::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use jit_client::{controller::types::RolloutCount, status::Style};

    use super::*;

    fn count(wave: u64, state: &str, hosts: u64) -> RolloutCount {
        RolloutCount { wave, state: state.into(), hosts }
    }

    fn halted(states: &[&str]) -> Shown {
        let host = |(number, state): (usize, &&str)| RolloutHostView {
            host: format!("web-{number}"),
            state: (*state).into(),
            word: if *state == "applied" { "ok" } else { "ceiling" }.into(),
            detail: if *state == "applied" { "" } else { "2222/tcp is above it" }.into(),
            ..RolloutHostView::default()
        };
        let view = RolloutView {
            id: "01KPEXAMP1E000000000000002".into(),
            state: "halted".into(),
            why: "web-1 is refused: ceiling".into(),
            waves: vec!["env=canary".into(), "all".into()],
            counts: vec![count(0, "applied", 1), count(0, "refused", 1), count(1, "waiting", 7)],
            ..RolloutView::default()
        };
        Shown { view, hosts: states.iter().enumerate().map(host).collect() }
    }

    #[test]
    fn the_host_that_halted_it_is_shown_with_its_word_and_the_next_commands() {
        let text = halted(&["applied", "refused"]).text(false, Page::endless(Style::Plain));
        assert!(text.contains("state      halted: web-1 is refused: ceiling\n"), "{text}");
        assert!(text.contains("1     env=canary  1        0        0           1"), "{text}");
        assert!(text.contains("web-1  1     refused           ceiling: 2222/tcp"), "{text}");
        assert!(!text.contains("web-0"), "{text}");
        assert!(text.contains("rollouts resume 01KPEXAMP1E000000000000002"), "{text}");
        let all = halted(&["applied", "refused"]).text(true, Page::endless(Style::Plain));
        assert!(all.contains("web-0"), "{all}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let page = Page { width: Some(60), ..Page::endless(Style::Plain) };
        let text = halted(&["refused"]).text(false, page);
        let table = text.lines().skip_while(|line| !line.is_empty());
        for line in table.take_while(|line| !line.starts_with("Mend")) {
            assert!(line.chars().count() <= 60, "{line:?}");
        }
    }

    #[test]
    fn the_worst_outcome_is_the_exit_code() {
        assert_eq!(halted(&["applied", "degraded"]).exit(), Exit::Degraded);
        assert_eq!(halted(&["degraded", "refused"]).exit(), Exit::Permission);
        assert_eq!(halted(&["refused", "silent"]).exit(), Exit::Unavailable);
        for (state, exit) in [
            ("done", Exit::Success),
            ("aborted", Exit::Permission),
            ("running", Exit::Unavailable),
            ("a state of a later version", Exit::Unavailable),
        ] {
            let mut shown = halted(&[]);
            shown.view.state = state.into();
            assert_eq!(shown.exit(), exit, "{state}");
        }
    }

    #[test]
    fn the_line_says_which_wave_and_how_far() {
        let mut view = RolloutView {
            state: "running".into(),
            waves: vec!["env=canary".into(), "all".into()],
            pause: "10m".into(),
            counts: vec![count(0, "applied", 1), count(0, "pushed", 2), count(1, "waiting", 7)],
            ..RolloutView::default()
        };
        assert_eq!(sentence(&view), "wave 1 of 2: env=canary: 1 applied, 2 pushed");
        assert_eq!(answered(&view), 1);
        view.counts = vec![count(0, "applied", 3), count(1, "waiting", 7)];
        let text = sentence(&view);
        assert!(text.ends_with("3 applied; the next begins 10m after the last host"), "{text}");
        (view.state, view.why) = ("halted".into(), "web-1 is silent: x".into());
        assert_eq!(sentence(&view), "halted: web-1 is silent: x");
    }
}
