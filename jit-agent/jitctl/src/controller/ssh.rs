//! `jitctl ssh`: opens SSH on a host for this machine, waits until it is open, and runs ssh.
//!
//! Standard output belongs to ssh: what is said here goes to standard error.

use std::{
    ffi::OsString,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, ExitStatus},
    time::Duration,
};

use clap::Args;
use clap::ColorChoice;
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{HostView, ReasonInput, RequestSummary, RequestView},
    },
    exit::Exit,
    status::{Page, Style},
    target::split_address,
};
use jit_common::Protocol;
use jit_proto::PortRange;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use super::{
    Output, ask, change, outcome, preview,
    request::{self, RequestArgs},
    session::{Session, To},
    show,
    source::ME,
    wait,
};
use crate::{colours::Colours, failure, failure::Failure, text};

/// What a request that is open already must have left to be used.
const LEAST_LEFT: Duration = Duration::from_secs(60);
/// The longest wait for a connection that should be open already.
const TRY: Duration = Duration::from_secs(1);
/// Exit code of a shell whose command was ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Examples:
    jitctl ssh web-1 --why 'disk full'
    jitctl ssh ana@web-1 --for 15m --end --why 'disk full' -- -A uptime

What stands after -- goes to ssh: its options, and the command on the host. If the port is open
for you already, nothing is asked. ssh connects to HOST if that is a name here, else to the
address where the controller reaches the host; ~/.ssh/config is used as always. The exit code is
that of ssh.";

/// Arguments of `ssh`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SshArgs {
    /// Exact id of the host, with or without a user
    #[arg(value_name = "[USER@]HOST")]
    host: String,
    /// Port of the SSH server
    #[arg(long, value_name = "PORT", default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// How long new connections can be opened: 30m
    #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = text::parse_duration)]
    lifetime: Duration,
    /// Why, in words [default: asked on a terminal]
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Number of the ticket or change request
    #[arg(long, value_name = "TICKET", default_value = "", hide_default_value = true)]
    ticket: String,
    /// Address that is let in; `me` is this machine's address as the host sees it
    #[arg(long, value_name = "me|ADDR[/LEN]", default_value = ME)]
    source: String,
    /// Wait at most this long until it is open
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = text::parse_duration)]
    wait: Duration,
    /// Close the port again when ssh ends, if this command has opened it
    #[arg(long)]
    end: bool,
    /// The program that is run
    #[arg(long, value_name = "PROGRAM", default_value = "ssh")]
    ssh: OsString,
    /// Options of ssh, and the command on the host
    #[arg(last = true, value_name = "SSH-ARGS")]
    args: Vec<OsString>,
}

/// A request that this command made: it may be ended again.
struct Opened {
    id: String,
}

/// Asks, waits, and runs ssh.
pub(super) fn run(to: To<'_>, args: &SshArgs) -> Result<Exit, Failure> {
    let (user, id) = match args.host.rsplit_once('@') {
        Some((user, id)) => (Some(user), id),
        None => (None, args.host.as_str()),
    };
    if id.is_empty() || id.starts_with('-') || user.is_some_and(|user| user.starts_with('-')) {
        return Err(Failure::usage(format!("`{}` is not [USER@]HOST", args.host)));
    }
    let ready = to.call(async |session| {
        let host: HostView = session.fetch(Call::get(["hosts", id])).await?;
        let (address, _) = split_address(&host.address).map_err(Failure::unavailable)?;
        let name = if resolves(id, args.port).await { None } else { Some(address) };
        let line = command_line(args, user, id, name.as_deref());
        let target = name.as_deref().unwrap_or(id);
        if is_open_already(session, id, target, args.port).await? {
            return Ok(Ready::Run(line, None));
        }
        match open(session, id, args).await? {
            Err(exit) => Ok(Ready::Not(exit)),
            Ok(opened) => Ok(Ready::Run(line, Some(opened))),
        }
    })?;
    match ready {
        Ready::Not(exit) => Ok(exit),
        Ready::Run(line, Some(opened)) if args.end => {
            let status = to.call(async |session| {
                let status = child(&args.ssh, &line).await;
                end(session, &opened.id).await;
                status
            })?;
            // The exit code of ssh is any number; everything is done.
            std::process::exit(code(status));
        }
        Ready::Run(line, _) => {
            let error = Command::new(&args.ssh).args(&line).exec();
            Err(cannot_run(&args.ssh, &error))
        }
    }
}

enum Ready {
    /// Run it with these arguments.
    Run(Vec<OsString>, Option<Opened>),
    /// It is not open.
    Not(Exit),
}

/// Asks for the port, and waits until it is open.
async fn open(
    session: &Session,
    id: &str,
    args: &SshArgs,
) -> Result<Result<Opened, Exit>, Failure> {
    let why = match &args.why {
        Some(why) => why.clone(),
        None if ask::can_ask() => ask::line("Why?")?,
        None => format!("ssh to {id}"),
    };
    let asked = RequestArgs {
        hosts: vec![id.to_owned()],
        label: Vec::new(),
        port: vec![port(args.port)?],
        lifetime: args.lifetime,
        why,
        ticket: args.ticket.clone(),
        source: vec![request::parse_source(&args.source).map_err(Failure::usage)?],
        from: None,
        sessions: None,
        max_connections: None,
        replaces: None,
        idempotency_key: None,
        wait: Some(args.wait),
        dry_run: false,
        output: Output { json: false, colours: Colours::of(ColorChoice::Never) },
    };
    let (input, found) = request::prepare(session, &asked).await?;
    let preview = request::preview(session, &input).await?;
    let page = Page::endless(Style::Plain);
    if let Some(refused) = preview::refused(&preview) {
        return Err(Failure::refused(format!("refused: {}", text::printable(&refused))));
    }
    if preview.verdict.outcome == "manual" {
        let how = found.as_ref().map(|found| found.how.as_str());
        failure::note(&preview::text(&preview, how, page));
    }
    let submitted = request::submit(session, &input, None).await?;
    failure::note(&format!("request {}: {}", submitted.id, wait::sentence(&submitted)));
    let id = submitted.id.clone();
    let mut signals = Signals::new()?;
    let view = tokio::select! {
        view = wait::settled(session, submitted, args.wait) => view?,
        () = signals.end() => {
            if args.end {
                end(session, &id).await;
            } else {
                failure::note(&format!(
                    "the request goes on: jitctl requests show {id}, or jitctl withdraw {id}"
                ));
            }
            std::process::exit(INTERRUPTED);
        }
    };
    if outcome::is_open(&view) {
        return Ok(Ok(Opened { id }));
    }
    let why = if view.why.is_empty() { wait::sentence(&view) } else { view.why.clone() };
    failure::note(&format!("not open: {}: {why}", view.state));
    failure::note(&show::answers(view.answers.iter(), page));
    if args.end {
        end(session, &id).await;
    }
    Ok(Err(outcome::exit(&view)))
}

/// Whether a request of one's own lets this machine in already: an open one, and the port answers.
async fn is_open_already(
    session: &Session,
    id: &str,
    target: &str,
    port: u16,
) -> Result<bool, Failure> {
    let call = Call::get(["requests"])
        .query("mine", "true")
        .query("state", "open")
        .query("host", id)
        .query("limit", 50);
    let found: Vec<RequestSummary> = session.list(call, Some(50)).await?;
    let now_ms = Timestamp::now().as_millisecond();
    if !found.iter().any(|request| covers(request, port, now_ms)) {
        return Ok(false);
    }
    Ok(matches!(timeout(TRY, TcpStream::connect((target, port))).await, Ok(Ok(_))))
}

fn covers(request: &RequestSummary, port: u16, now_ms: i64) -> bool {
    let least = i64::try_from(LEAST_LEFT.as_millis()).unwrap_or(0);
    let lasts = request.ends_ms.is_some_and(|ends| ends.saturating_sub(now_ms) >= least);
    let has = |range: &PortRange| {
        range.protocol == Protocol::Tcp && (range.first..=range.last).contains(&port)
    };
    lasts && request.ports.iter().filter_map(|text| text.parse().ok()).any(|range| has(&range))
}

fn port(number: u16) -> Result<PortRange, Failure> {
    number.to_string().parse().map_err(|_| Failure::usage("--port is not a port"))
}

/// Whether the id is also a name of the host, here.
async fn resolves(id: &str, port: u16) -> bool {
    match tokio::net::lookup_host((id, port)).await {
        Ok(mut found) => found.next().is_some(),
        Err(_) => false,
    }
}

/// What ssh gets: where to, and what the person wrote.
fn command_line(
    args: &SshArgs,
    user: Option<&str>,
    id: &str,
    address: Option<&str>,
) -> Vec<OsString> {
    let mut line = Vec::new();
    if args.port != 22 {
        line.extend(["-p".into(), args.port.to_string().into()]);
    }
    if let Some(address) = address {
        line.extend(["-o".into(), format!("HostName={address}").into()]);
        // Keys of hosts are kept by the id, which stays when the address changes.
        line.extend(["-o".into(), format!("HostKeyAlias={id}").into()]);
    }
    if let Some(user) = user {
        line.extend(["-l".into(), user.into()]);
    }
    line.push(id.into());
    line.extend(args.args.iter().cloned());
    line
}

/// Takes a request back, or ends it. It ends by itself, too: a failure is only a warning.
async fn end(session: &Session, id: &str) {
    let ended = async {
        let view: RequestView = session.fetch(wait::read(id)).await?;
        let call = match view.state.as_str() {
            _ if view.is_final => return Ok(()),
            "pending" => change::change(id, "withdraw", &ReasonInput::default()),
            _ => change::change(id, "revoke", &ReasonInput { reason: "ssh has ended".into() }),
        };
        session.send(call).await.map(|_| ())
    };
    if let Err(failure) = ended.await {
        let failure: Failure = failure;
        failure::warn(&format!("{id} could not be ended, and stays until its end: {failure}"));
    }
}

/// Signals that end a command.
struct Signals([tokio::signal::unix::Signal; 4]);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
        ];
        let [hangup, interrupt, quit, terminate] = kinds.map(signal);
        let all = || Ok::<_, std::io::Error>([hangup?, interrupt?, quit?, terminate?]);
        let all = all().map_err(|error| Failure::unavailable(format!("signals: {error}")));
        Ok(Self(all?))
    }

    /// The next one.
    async fn end(&mut self) {
        self.next().await;
    }

    async fn next(&mut self) -> Option<Signal> {
        let [hangup, interrupt, quit, terminate] = &mut self.0;
        tokio::select! {
            _ = hangup.recv() => Some(Signal::HUP),
            // From the terminal ssh gets these itself, and decides.
            _ = interrupt.recv() => None,
            _ = quit.recv() => None,
            _ = terminate.recv() => Some(Signal::TERM),
        }
    }
}

/// Runs ssh to its end, whatever signals come.
async fn child(program: &OsString, line: &[OsString]) -> Result<ExitStatus, Failure> {
    let mut signals = Signals::new()?;
    let mut child = tokio::process::Command::new(program)
        .args(line)
        .spawn()
        .map_err(|error| cannot_run(program, &error))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    loop {
        tokio::select! {
            status = child.wait() => {
                return status.map_err(|error| cannot_run(program, &error));
            }
            signal = signals.next() => {
                if let (Some(signal), Some(pid)) = (signal, pid) {
                    // One that has ended meanwhile needs none.
                    let _ended = kill_process(pid, signal);
                }
            }
        }
    }
}

fn cannot_run(program: &OsString, error: &std::io::Error) -> Failure {
    Failure::files(format!(
        "cannot run {}: {error}; is it installed? Another program: --ssh PROGRAM",
        program.display()
    ))
}

/// As a shell says it.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SshArgs,
    }

    fn line(text: &str, user: Option<&str>, address: Option<&str>) -> String {
        let args = Line::try_parse_from(text.split(' ')).unwrap().args;
        let line = command_line(&args, user, "web-1", address);
        line.join(std::ffi::OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn ssh_gets_what_stands_after_the_dashes() {
        assert_eq!(line("x web-1", None, None), "web-1");
        assert_eq!(line("x web-1 -- -A uptime", None, None), "web-1 -A uptime");
        assert_eq!(
            line("x web-1 --port 2222", Some("ana"), Some("192.0.2.10")),
            "-p 2222 -o HostName=192.0.2.10 -o HostKeyAlias=web-1 -l ana web-1"
        );
    }

    #[test]
    fn only_an_open_request_with_time_left_for_this_port_is_used() {
        let now = 1_000_000;
        let request = |ports: &str, left_ms: Option<i64>| RequestSummary {
            ports: vec![ports.into()],
            ends_ms: left_ms.map(|left| now + left),
            ..RequestSummary::default()
        };
        assert!(covers(&request("22/tcp", Some(60_000)), 22, now));
        assert!(covers(&request("20-30/tcp", Some(600_000)), 22, now));
        for (ports, left) in [
            ("22/tcp", Some(59_999)),
            ("23/tcp", Some(600_000)),
            ("22/udp", Some(600_000)),
            ("22/tcp", None),
            ("?", Some(600_000)),
        ] {
            assert!(!covers(&request(ports, left), 22, now), "{ports}");
        }
    }
}
