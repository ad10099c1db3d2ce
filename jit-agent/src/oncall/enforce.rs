//! `jit-agent enforce`: enforces on trial what the configuration only observes.
//!
//! It shows first who would be shut out. Without `jit-agent confirm` in time the kernel itself observes
//! again, whatever becomes of this command or of the agent.

use std::{
    cell::Cell,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use jit_client::{exit::Exit, local::LocalClient};
use jit_proto::{
    WallTime,
    printable::clean,
    toml_value::duration,
    v1,
    words::{address_text, counted, duration as duration_words},
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    oncall::{
        agent::{reach, undone},
        failure::Failure,
        output::{complain, print, print_json},
        ssh_session::SshSession,
    },
    system::sys,
};

/// What it does, for errors.
const WHAT: &str = "enforce on trial";
/// How far back sources are looked for that observe mode let pass.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// The most such sources that are shown.
const SOURCES: u32 = 20;
/// How often the agent is asked whether the trial goes on.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `enforce`.
#[derive(Args, Clone, Debug)]
pub struct EnforceArgs {
    /// How long to wait for `jit-agent confirm`: 10s to 1h. Then the gate observes again by itself.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = time)]
    confirm_within: Duration,
    /// Only show who would be shut out.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before.
    #[arg(long)]
    yes: bool,
    /// Do not wait for the end of the trial.
    #[arg(long)]
    no_wait: bool,
    /// Print JSON; implies --no-wait.
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    duration("--confirm-within", text)
}

/// Shows, asks, begins, and waits for the end.
pub async fn run(config: &Path, args: &EnforceArgs) -> Result<ExitCode, Failure> {
    let mut client = reach(config).await?;
    let asked = v1::EnforceRequest {
        confirm_within_ms: u64::try_from(args.confirm_within.as_millis()).unwrap_or(u64::MAX),
        dry_run: true,
    };
    let preview = client.enforce(asked).await.map_err(|status| undone(WHAT, status))?.into_inner();
    let own = SshSession::own();
    let seen = recent(&mut client).await;
    if !args.json {
        print(&preview_text(&preview, &seen, own))?;
    }
    if args.dry_run {
        if args.json {
            print_json(&json(&preview, own))?;
        }
        return Ok(Exit::Success.into());
    }
    if !args.yes && !agreed(args.confirm_within)? {
        print("nothing changed\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let asked = v1::EnforceRequest { dry_run: false, ..asked };
    let begun = client.enforce(asked).await.map_err(|status| undone(WHAT, status))?.into_inner();
    if args.json {
        print_json(&json(&begun, own))?;
        return Ok(Exit::Success.into());
    }
    // From here on Ctrl-C ends only the waiting, and says so.
    let interrupt = signal(SignalKind::interrupt());
    print(&format!(
        "ENFORCING ON TRIAL for {}.\n\
         Now open a NEW SSH session to this host, and run there: sudo jit-agent confirm\n\
         (This session does not count. At the host's console: jit-agent confirm --from-console)\n",
        jit_proto::words::duration_text(args.confirm_within),
    ))?;
    if args.no_wait {
        return Ok(Exit::Success.into());
    }
    wait(config, interrupt).await
}

/// Waits until the trial has ended, and says how. Ctrl-C ends the waiting alone.
async fn wait(config: &Path, interrupt: io::Result<Signal>) -> Result<ExitCode, Failure> {
    let left = Cell::new(None);
    let interrupted = async {
        match interrupt {
            Ok(mut signal) => signal.recv().await,
            // Ctrl-C ends the command, as if it did not wait.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = follow(config, &left) => ended,
        _ = interrupted => {
            if left.get().is_some() {
                print("\n")?;
            }
            print(&interrupted_text(left.get()))?;
            Ok(Exit::Degraded.into())
        }
    }
}

/// What a person reads who has waited no longer. `left`: when it was looked at last, milliseconds.
fn interrupted_text(left: Option<i64>) -> String {
    let left = left.map(|left| format!(", {} left", duration_words(left))).unwrap_or_default();
    format!(
        "THE TRIAL GOES ON{left}. To keep it: `sudo jit-agent confirm` in a NEW SSH session.\n\
         Otherwise the gate observes again by itself. `jit-agent status` says how it goes.\n"
    )
}

/// Shows the time left on a terminal, until the trial has ended.
async fn follow(config: &Path, left: &Cell<Option<i64>>) -> Result<ExitCode, Failure> {
    let terminal = io::stderr().is_terminal();
    loop {
        let Ok(mut client) = reach(config).await else {
            complain(
                "the agent does not answer: the kernel observes again when the time has passed; \
                 `jit-agent status`",
            );
            return Ok(Exit::Unavailable.into());
        };
        let status = client.status(v1::StatusRequest {}).await;
        let status = status.map_err(|status| undone("wait for the end of the trial", status))?;
        let trial = status.into_inner().trial.unwrap_or_default();
        if !trial.ended.is_empty() || trial.begun_ms == 0 {
            if terminal {
                clear_line();
            }
            return ended(&trial.ended);
        }
        left.set(Some(trial.left_ms));
        if terminal {
            let left = duration_words(trial.left_ms);
            let _unseen = write!(io::stderr(), "\r{left} left to confirm   ");
            let _unseen = io::stderr().flush();
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn clear_line() {
    let _unseen = write!(io::stderr(), "\r{:40}\r", "");
}

fn ended(how: &str) -> Result<ExitCode, Failure> {
    let (text, exit) = match how {
        "confirmed" => ("confirmed: the gate ENFORCES from now on\n", Exit::Success),
        "replaced" => (
            "the trial has ended: another configuration is in force; `jit-agent status`\n",
            Exit::Degraded,
        ),
        _ => (
            "NOT CONFIRMED: the gate observes again, as before; nothing is closed\n",
            Exit::Degraded,
        ),
    };
    print(text)?;
    Ok(exit.into())
}

/// Asks the person at the terminal.
fn agreed(within: Duration) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "enforce asks before it closes anything; add --yes to do it without a terminal".into(),
        ));
    }
    print(&format!(
        "Enforce now, on trial for {}? [y/N] ",
        jit_proto::words::duration_text(within)
    ))?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Packets that observe mode let pass lately; empty if the agent does not say.
async fn recent(client: &mut LocalClient) -> Vec<v1::Denial> {
    let now = sys::now().wall.0;
    let since_ms = now.saturating_sub(i64::try_from(RECENT.as_millis()).unwrap_or(i64::MAX));
    let query = v1::DenialsRequest { since_ms, top: SOURCES, ..v1::DenialsRequest::default() };
    let answer = client.denials(query).await;
    let denials = answer.map(|answer| answer.into_inner().denials).unwrap_or_default();
    denials.into_iter().filter(|denial| denial.observed).collect()
}

fn preview_text(
    preview: &v1::EnforceResponse,
    seen: &[v1::Denial],
    own: Option<SshSession>,
) -> String {
    let mut text = String::from("enforcing closes:\n");
    for closes in &preview.closes {
        text.push_str(&format!("  {}\n", clean(closes, 200)));
    }
    let total = preview.sessions_total;
    if total == 0 {
        text.push_str("every open session at these ports has a grant or an exemption\n");
    } else {
        text.push_str(&format!("open sessions without a grant or an exemption: {total}\n"));
        for session in &preview.sessions {
            let mark =
                if own.is_some_and(|own| own.is(session)) { "   <- THIS SESSION" } else { "" };
            text.push_str(&format!("  {}{mark}\n", session_text(session)));
        }
    }
    if let Some(own) = own {
        let shown = preview.sessions.iter().any(|session| own.is(session));
        if shown {
            text.push_str(&format!(
                "YOU come from {} without a grant: a new session will NOT open; get a grant or an \
                 exemption for it first\n",
                own.peer.ip()
            ));
        }
    }
    for warning in &preview.warnings {
        text.push_str(&format!("WARNING: {}\n", clean(warning, 400)));
    }
    if seen.is_empty() {
        text.push_str("nobody else was let pass by observe mode in the last day\n");
    } else {
        text.push_str("let pass by observe mode in the last day, and shut out from now on:\n");
        for denial in seen {
            let protocol = match denial.protocol() {
                v1::Protocol::Udp => "udp",
                _ => "tcp",
            };
            text.push_str(&format!(
                "  {} -> {}/{protocol}: {}, last {}\n",
                address_text(&denial.source),
                denial.port,
                counted(denial.packets, "packet"),
                WallTime(denial.last_ms)
            ));
        }
    }
    text
}

fn session_text(session: &v1::Session) -> String {
    let v1::Session { peer, peer_port, local: _, port } = session;
    format!("{} port {peer_port} -> {port}/tcp", address_text(peer))
}

fn json(answer: &v1::EnforceResponse, own: Option<SshSession>) -> serde_json::Value {
    let v1::EnforceResponse { trial, closes, sessions, sessions_total, warnings } = answer;
    let sessions = sessions.iter().map(|session| {
        json!({
            "peer": address_text(&session.peer),
            "peer_port": session.peer_port,
            "port": session.port,
            "own": own.is_some_and(|own| own.is(session)),
        })
    });
    json!({
        "closes": closes,
        "sessions": sessions.collect::<Vec<_>>(),
        "sessions_total": sessions_total,
        "warnings": warnings,
        "left_ms": trial.as_ref().map(|trial| trial.left_ms),
    })
}
