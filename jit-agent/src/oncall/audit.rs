//! `jit-agent audit verify | show | follow`: reads the audit's files, also while no agent runs.

mod report;
mod show;

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::{Args, Subcommand};
use show::{Filter, Shown};

use crate::{
    disk::audit::{
        EventCode, SignedHead, Tip, directory,
        read::Reader,
        verify::{self, Options},
    },
    oncall::output::{Colours, print, unless_closed, unwritten},
    system::sys,
};
use jit_client::{exit::Exit, status::IdBegin};
use jit_proto::{
    WallTime,
    printable::{clean, json_pretty},
};

/// How often `follow` looks for new lines.
const POLL: Duration = Duration::from_millis(200);
/// The number of earlier lines that `follow` prints first.
const BEFORE: usize = 10;

/// What to do with the audit.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Find lines that were changed, left out, added or moved, by file and line. Exit code 0: there
    /// are none; 1: something is wrong.
    Verify(VerifyArgs),
    /// Print the records, oldest first.
    Show(ShowArgs),
    /// Print new records as they are written, also when the agent begins a new file.
    Follow(FilterArgs),
}

/// What `verify` compares with.
#[derive(Args, Clone, Debug, Default)]
pub struct VerifyArgs {
    /// Print JSON (docs/json.md).
    #[arg(long)]
    pub json: bool,
    /// A copy of the host's public key (host.pub.pem) that was kept elsewhere; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
    /// A head that was kept elsewhere: SEQ:HASH, or a copy of audit.head; may be repeated.
    #[arg(long, value_name = "HEAD")]
    pub against: Vec<String>,
    #[command(flatten)]
    colours: Colours,
}

/// What `show` shows.
#[derive(Args, Clone, Debug, Default)]
pub struct ShowArgs {
    /// Print only the last NUMBER records.
    #[arg(long, value_name = "NUMBER")]
    pub last: Option<usize>,
    /// Which records.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// Which records are shown, and how.
#[derive(Args, Clone, Debug, Default)]
pub struct FilterArgs {
    /// Print JSON: each record on one line, as in the file.
    #[arg(long)]
    pub json: bool,
    /// Only records from then on: 45m, 7d, 2026-06-01 or 2026-06-01T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub since: Option<Since>,
    /// Only records about this grant: its id, or the first characters of it.
    #[arg(long, value_name = "ID")]
    pub grant: Option<IdBegin>,
    /// Only records about grants of this person, or that name the person.
    #[arg(long, value_name = "NAME")]
    pub requester: Option<String>,
    /// Only records of this kind: G001 or grant_admitted; may be repeated.
    #[arg(long, value_name = "CODE", value_parser = parse_code)]
    pub code: Vec<EventCode>,
    #[command(flatten)]
    colours: Colours,
}

/// The value of `--since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// A duration before now.
    Ago(Duration),
    /// A moment.
    At(WallTime),
}

impl Since {
    /// The moment that it means at this time.
    pub(super) fn moment(self, now: WallTime) -> WallTime {
        match self {
            Self::At(moment) => moment,
            Self::Ago(ago) => {
                let millis = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                WallTime(now.0.saturating_sub(millis))
            }
        }
    }
}

/// Why the audit cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} the audit in {}: {error}{hint}", directory.display())]
pub struct CommandError {
    verb: &'static str,
    directory: PathBuf,
    error: io::Error,
    hint: &'static str,
}

impl CommandError {
    fn new(verb: &'static str, directory: &Path, error: io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "; use sudo",
            io::ErrorKind::NotFound => "; `[paths] state` in the configuration names its directory",
            _ => "",
        };
        Self { verb, directory: directory.to_owned(), error, hint }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self.error.kind() {
            io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Unavailable,
        }
    }
}

/// Runs a command on the audit in a state directory. Returns the exit code.
pub fn run(state: &Path, command: &Command) -> Result<u8, CommandError> {
    let directory = directory(state);
    let failed = |verb| {
        let directory = directory.clone();
        move |error| CommandError::new(verb, &directory, error)
    };
    match command {
        Command::Verify(args) => {
            let against = args.against.iter().map(|text| kept_head(text)).collect::<Result<_, _>>();
            let options =
                Options { keys: args.key.clone(), against: against.map_err(failed("verify"))? };
            let report = verify::verify(state, &options).map_err(failed("verify"))?;
            let text = if args.json {
                format!("{}\n", json_pretty(&report::json(&report)))
            } else {
                report::text(&report, &directory, args.colours.style())
            };
            print(&text).map_err(failed("verify"))?;
            Ok(u8::from(!report.is_good()))
        }
        Command::Show(args) => {
            unless_closed(show_all(&directory, args)).map_err(failed("show"))?;
            Ok(0)
        }
        Command::Follow(args) => {
            unless_closed(follow(&directory, args)).map_err(failed("follow"))?;
            Ok(0)
        }
    }
}

fn show_all(directory: &Path, args: &ShowArgs) -> io::Result<()> {
    let mut reader = Reader::from_the_start(directory)?;
    let mut filter = args.filter.filter();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut kept = VecDeque::new();
    while let Some(line) = reader.next_line()? {
        let Some(text) = args.filter.render(&line, &mut filter) else { continue };
        match args.last {
            None => writeln!(out, "{text}").map_err(unwritten)?,
            Some(last) => {
                kept.push_back(text);
                if kept.len() > last {
                    kept.pop_front();
                }
            }
        }
    }
    for text in kept {
        writeln!(out, "{text}").map_err(unwritten)?;
    }
    out.flush().map_err(unwritten)
}

fn follow(directory: &Path, args: &FilterArgs) -> io::Result<()> {
    let mut reader = if args.since.is_some() {
        Reader::from_the_start(directory)?
    } else {
        Reader::from_the_newest(directory)?
    };
    let mut filter = args.filter();
    // Without --since: the last lines.
    let most = if args.since.is_some() { usize::MAX } else { BEFORE };
    let mut kept = VecDeque::new();
    while let Some(line) = reader.next_line()? {
        kept.extend(args.render(&line, &mut filter));
        if kept.len() > most {
            kept.pop_front();
        }
    }
    let mut out = io::stdout().lock();
    for text in kept {
        writeln!(out, "{text}").map_err(unwritten)?;
    }
    loop {
        out.flush().map_err(unwritten)?;
        match reader.next_line()? {
            Some(line) => {
                if let Some(text) = args.render(&line, &mut filter) {
                    writeln!(out, "{text}").map_err(unwritten)?;
                }
            }
            None => thread::sleep(POLL),
        }
    }
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        let now = sys::now().wall;
        Filter {
            since: self.since.map(|since| since.moment(now)),
            codes: self.code.clone(),
            grant: self.grant.clone(),
            requester: self.requester.clone(),
            ..Filter::default()
        }
    }

    /// The line as text or JSON; `None` when it is not selected.
    fn render(&self, raw: &[u8], filter: &mut Filter) -> Option<String> {
        let line = Shown::parse(raw);
        filter.wants(&line).then(|| {
            if self.json {
                show::json(&line, raw)
            } else {
                show::text(&line, raw, self.colours.style())
            }
        })
    }
}

fn kept_head(text: &str) -> io::Result<Tip> {
    if let Ok(tip) = text.parse() {
        return Ok(tip);
    }
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let content = std::fs::read_to_string(text).map_err(|error| {
        wrong(format!("--against {}: neither SEQ:HASH nor a file: {error}", clean(text, 200)))
    })?;
    SignedHead::parse(&content)
        .and_then(|signed| signed.tip())
        .ok_or_else(|| wrong(format!("--against {}: it is not a signed head", clean(text, 200))))
}

fn parse_code(text: &str) -> Result<EventCode, String> {
    EventCode::parse(text).ok_or_else(|| {
        let codes: Vec<_> = EventCode::ALL.iter().map(|code| code.code()).collect();
        format!("{text:?} is not a code; the codes are {}", codes.join(" "))
    })
}

pub(super) fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(Since::At(WallTime(moment.as_millisecond())));
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>()
        && let Ok(midnight) = jiff::tz::TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0))
    {
        return Ok(Since::At(WallTime(midnight.as_millisecond())));
    }
    text.parse::<jiff::Span>()
        .ok()
        .and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok())
        .and_then(|duration| Duration::try_from(duration).ok())
        .map(Since::Ago)
        .ok_or_else(|| {
            format!("{text:?} is neither a time like 2026-06-01T12:00:00Z nor a duration like 45m")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let at = |millis| Ok(Since::At(WallTime(millis)));
        assert_eq!(parse_since("2026-06-01T00:00:01Z"), at(1_780_272_001_000));
        assert_eq!(parse_since("2026-06-01"), at(1_780_272_000_000));
        assert_eq!(parse_since("45m"), Ok(Since::Ago(Duration::from_secs(2700))));
        assert_eq!(parse_since("7d"), Ok(Since::Ago(Duration::from_secs(7 * 86_400))));
        assert!(parse_since("yesterday").is_err());
        assert_eq!(parse_code("g001"), Ok(EventCode::GrantAdmitted));
        assert!(parse_code("X999").unwrap_err().contains("G001"));
    }
}
