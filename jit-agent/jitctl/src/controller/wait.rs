//! Waits for a request: until people have agreed and every host has answered, with a line of progress.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jit_client::{
    controller::{call::Call, types::RequestView},
    text::printable,
};

use super::{outcome, session::Session, show};
use crate::failure::Failure;

/// The longest time that the controller holds one question.
const HOLD: Duration = Duration::from_secs(2);
/// The least time between two questions while something changes, and while only silent hosts are missing.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The most failures in a row before this gives up: the controller may be starting again.
const PATIENCE: u32 = 15;

/// A request as it is now.
pub(super) fn read(id: &str) -> Call {
    Call::get(["requests", id])
}

/// Waits until the request is settled, or the time is up. Returns what it is then.
pub(super) async fn settled(
    session: &Session,
    mut view: RequestView,
    most: Duration,
) -> Result<RequestView, Failure> {
    let bar = bar();
    let until = Instant::now() + most;
    let mut failures = 0;
    let mut pause = PAUSE;
    loop {
        draw(&bar, &view);
        if outcome::is_settled(&view) || Instant::now() >= until {
            break;
        }
        let asked = Instant::now();
        let hold = HOLD.min(until.saturating_duration_since(asked)).max(PAUSE);
        let call = read(&view.id)
            .query("wait", "open")
            .query("timeout", format!("{}ms", hold.as_millis()))
            .patience(hold + Duration::from_secs(10));
        match session.fetch::<RequestView>(call).await {
            Ok(now) => {
                let changed = now.counts != view.counts || now.state != view.state;
                pause = if changed { PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                (view, failures) = (now, 0);
            }
            Err(failure) if failure.exit == jit_client::exit::Exit::Unavailable => {
                failures += 1;
                if failures >= PATIENCE {
                    bar.finish_and_clear();
                    return Err(failure);
                }
                bar.set_message(format!("the controller does not answer ({failures})"));
                tokio::time::sleep(HOLD).await;
            }
            Err(failure) => {
                bar.finish_and_clear();
                return Err(failure);
            }
        }
        tokio::time::sleep(pause.saturating_sub(asked.elapsed())).await;
    }
    bar.finish_and_clear();
    Ok(view)
}

/// A bar on the terminal of standard error; nothing anywhere else.
pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {bar:20} {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

fn draw(bar: &ProgressBar, view: &RequestView) {
    let hosts = u64::try_from(view.hosts.len()).unwrap_or(u64::MAX);
    bar.set_length(hosts.max(1));
    bar.set_position(view.counts.open + view.counts.scheduled + view.counts.refused);
    bar.set_message(sentence(view));
}

/// What is waited for, in a few words.
pub(super) fn sentence(view: &RequestView) -> String {
    let text = match view.state.as_str() {
        "pending" => {
            let who = show::eligible(&view.eligible);
            format!("waits for {}: {who}", view.missing_text)
        }
        "awaiting_signatures" => "waits for signatures: jitctl approve --signing-key".into(),
        _ => {
            let counts = &view.counts;
            let parts = [
                (counts.open, "open"),
                (counts.scheduled, "scheduled"),
                (counts.refused, "refused"),
                (counts.waiting.saturating_sub(counts.unreachable), "waiting"),
                (counts.unreachable, "unreachable"),
            ];
            let parts: Vec<_> = parts
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, word)| format!("{count} {word}"))
                .collect();
            if parts.is_empty() { view.state.clone() } else { parts.join(", ") }
        }
    };
    printable(&text)
}

#[cfg(test)]
mod tests {
    use jit_client::controller::types::{AnswerCounts, EligibleView};

    use super::*;

    #[test]
    fn the_line_names_who_or_what_is_waited_for() {
        let mut view = RequestView {
            state: "pending".into(),
            missing_text: "1 of sre".into(),
            eligible: vec![EligibleView {
                subject: "li".into(),
                groups: vec!["sre".into()],
                ..EligibleView::default()
            }],
            ..RequestView::default()
        };
        assert_eq!(sentence(&view), "waits for 1 of sre: li (sre)");
        view.state = "partly".into();
        view.counts = AnswerCounts { open: 2, waiting: 3, unreachable: 1, ..Default::default() };
        assert_eq!(sentence(&view), "2 open, 2 waiting, 1 unreachable");
        view.counts = AnswerCounts::default();
        assert_eq!(sentence(&view), "partly");
    }
}
