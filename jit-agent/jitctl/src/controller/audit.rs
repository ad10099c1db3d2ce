//! `jitctl audit`: what happened on the controller, record by record.

use std::time::Duration;

use clap::Args;
use jit_client::{
    controller::{
        call::Call,
        types::{AuditView, Page},
    },
    exit::Exit,
};
use jit_proto::printable::json_line;

use super::session::{Session, To};
use crate::{failure::Failure, text};

/// Records of one question.
const PART: usize = 200;
/// Time between two questions when there is nothing new.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause while the controller does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Arguments of `audit`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
    jitctl audit --follow
    jitctl audit --after 4211 --json            for a program: the last `seq` is where to go on")]
pub(crate) struct AuditArgs {
    /// Begin after the record with this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: i64,
    /// Only records of this request: who sees the request sees them
    #[arg(long, value_name = "ID", conflicts_with_all = ["after", "follow"])]
    request: Option<String>,
    /// Stay, and print records as they come
    #[arg(long)]
    follow: bool,
    /// Print each record as JSON on one line
    #[arg(long)]
    json: bool,
}

/// Prints records.
pub(super) fn run(to: To<'_>, args: &AuditArgs) -> Result<Exit, Failure> {
    to.call(async |session| {
        let mut after = args.after;
        let mut pause = PAUSE;
        let mut first = true;
        loop {
            let records = match part(session, after, args.request.as_deref()).await {
                Ok(records) => records,
                // Only the first question may fail.
                Err(failure) if args.follow && !first && failure.exit == Exit::Unavailable => {
                    failure.report();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            (pause, first) = (PAUSE, false);
            for record in &records {
                let line = if args.json {
                    json_line(&serde_json::to_value(record).unwrap_or_default())
                } else {
                    shown(record)
                };
                text::follow(&format!("{line}\n"))?;
            }
            match records.last() {
                _ if args.request.is_some() => return Ok(Exit::Success),
                Some(last) if last.seq > after => after = last.seq,
                _ if args.follow => tokio::time::sleep(PAUSE).await,
                _ => return Ok(Exit::Success),
            }
        }
    })
}

async fn part(
    session: &Session,
    after: i64,
    request: Option<&str>,
) -> Result<Vec<AuditView>, Failure> {
    let call = match request {
        Some(request) => Call::get(["audit"]).query("request", request),
        None => Call::get(["audit"]).query("after", after).query("limit", PART),
    };
    let page: Page<AuditView> = session.fetch(call).await?;
    Ok(page.items)
}

/// `2027-03-01T10:00:00Z  R004 request_approved  li@example.org  01K...`
fn shown(record: &AuditView) -> String {
    let request =
        if record.request.is_empty() { String::new() } else { format!("  {}", record.request) };
    text::printable(&format!(
        "{}  {}  {} {}  {}{request}",
        record.seq, record.time, record.code, record.event, record.by
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_it_says() {
        let record = AuditView {
            seq: 7,
            time: "2027-03-01T10:00:00Z".into(),
            code: "R004".into(),
            event: "request_approved".into(),
            by: "eve\n\u{1b}[2J".into(),
            request: "01K".into(),
            ..AuditView::default()
        };
        let line = shown(&record);
        assert!(line.starts_with("7  2027-03-01T10:00:00Z  R004 request_approved  eve\\n"));
        assert!(!line.contains('\n') && !line.contains('\u{1b}'));
    }
}
