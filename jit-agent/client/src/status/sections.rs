//! The sections of `status`: what each says, in the order of the screen, and its rank when there is
//! not room for all.

use jit_proto::{WallTime, printable::clean, v1, words::duration};

use super::{
    BOLD, GREEN, Page, RED, Style, YELLOW,
    columns::{cut, width},
    drops, grants, interfaces,
    layout::{PROBLEMS, Piece, Section},
    ports,
    words::{WIDTH, many, now_ms},
};
use crate::exit::Exit;

/// Requesters whose floor `status` shows.
const SHOWN_FLOORS: usize = 3;
/// Exemptions, and refused pushes, that `status` shows where there is no screen to fill.
const SHOWN: usize = 5;

/// The verdict: version, host and state. The host's name gives way before the state does.
pub(super) fn head(status: &v1::StatusResponse, style: Style, wide: Option<usize>) -> String {
    let mut state = clean(&status.state, 40).replace('_', " ").to_uppercase();
    let mut mode = match status.mode.as_str() {
        "observe" => " (observe mode: nothing is dropped)",
        _ => "",
    };
    let mut version = format!("jit-agent {}", clean(&status.version, 40));
    let by = match status.host_id_source.as_str() {
        "" | "file" => String::new(),
        service => format!(" ({})", clean(service, 20)),
    };
    let mut host = format!("  {}{by}  ", clean(&status.host, 100));
    if let Some(wide) = wide {
        let others = |version: &str, mode: &str| width(version) + width(&state) + width(mode);
        if others(&version, mode) + 8 > wide && !mode.is_empty() {
            mode = " (observe)";
        }
        if others(&version, mode) + 8 > wide {
            version.clear();
        }
        let room = wide.saturating_sub(others(&version, mode));
        if width(&host) > room {
            host = match room.saturating_sub(4) {
                0..4 => " ".repeat(room.min(2)),
                room => format!("  {}  ", cut(host.trim(), room)),
            };
        }
        if version.is_empty() {
            host = host.trim_start().to_owned();
        }
        state = cut(&state, wide.saturating_sub(width(mode)));
    }
    let (version, state) = (style.paint(BOLD, &version), style.paint(colour(status), &state));
    format!("{version}{host}{state}{mode}")
}

fn colour(status: &v1::StatusResponse) -> &'static str {
    match Exit::of_status(status) {
        Exit::Success => GREEN,
        Exit::Degraded => YELLOW,
        _ => RED,
    }
}

/// All but the head. Sections that have nothing to say are left out.
pub(super) fn sections(status: &v1::StatusResponse, page: Page) -> Vec<Section> {
    let now = now_ms();
    let mut all = vec![problems(status)];
    all.extend(gate_and_ports(status, page.width, now));
    all.extend(policy_and_exemptions(status, page));
    all.push(grants::section(&status.grants, page));
    all.extend(lately(status, page, now, None));
    all.push(soon(status));
    all.retain(|section| !section.is_empty());
    all
}

/// All but the head and the grants, the alarms first; `rate` is what is dropped a second.
pub(super) fn around_grants(
    status: &v1::StatusResponse,
    page: Page,
    rate: Option<String>,
) -> Vec<Section> {
    let now = now_ms();
    let mut all = vec![problems(status), soon(status)];
    all.extend(gate_and_ports(status, page.width, now));
    all.extend(policy_and_exemptions(status, page));
    all.extend(lately(status, page, now, rate));
    all.retain(|section| !section.is_empty());
    all
}

fn problems(status: &v1::StatusResponse) -> Section {
    let problems = status.problems.iter().map(|problem| clean(problem, 480)).collect();
    Section::sentences("problem", PROBLEMS, problems).labelled(colour(status))
}

fn soon(status: &v1::StatusResponse) -> Section {
    let soon = status.soon.iter().map(|soon| clean(soon, 200)).collect();
    Section::sentences("soon", 3, soon).labelled(YELLOW)
}

fn policy_and_exemptions(status: &v1::StatusResponse, page: Page) -> [Section; 2] {
    let policy = status.policy.as_ref().filter(|policy| policy.version != 0);
    let policy = policy.map(policy_text).into_iter().collect();
    [Section::sentences("policy", 7, policy), exempt(status, page)]
}

/// What happened: revocations, refusals, drops; and the controllers.
fn lately(status: &v1::StatusResponse, page: Page, now: i64, rate: Option<String>) -> [Section; 6] {
    let sentences = Section::sentences;
    let control = status.control.as_ref().map(|control| control_text(control, now));
    let drops = rate.into_iter().chain(dropped(status)).collect();
    [
        sentences("revoked", 10, status.revoked_before.iter().flat_map(floors).collect()),
        refused(status, page, now),
        sentences("dropped", 4, drops),
        sentences("tables", 8, tables(status)),
        sentences(
            "control",
            3,
            control
                .into_iter()
                .chain(uplink(status, now))
                .chain(freshness(status, now))
                .chain(front(status, now))
                .collect(),
        ),
        sentences("log", 8, log(status)),
    ]
}

/// The interfaces and the ports.
fn gate_and_ports(status: &v1::StatusResponse, wide: Option<usize>, now: i64) -> [Section; 2] {
    let or_none = |pieces: Vec<Piece>| {
        if pieces.is_empty() { vec![Piece::plain("none")] } else { pieces }
    };
    let mut gate = or_none(interfaces::pieces(&status.interfaces));
    gate.extend(status.guard.as_ref().map(interfaces::guard));
    let ports = status.ports.iter().map(|port| ports::piece(port, now)).collect();
    [Section::flow("gate", 1, &gate, wide), Section::flow("ports", 2, &or_none(ports), wide)]
}

/// The first exemptions.
fn exempt(status: &v1::StatusResponse, page: Page) -> Section {
    let all = status.ports.iter().map(|port| port.exemptions.len()).sum::<usize>();
    let most = page.height.unwrap_or(if page.grants.is_some() { SHOWN } else { usize::MAX });
    let shown: Vec<_> = ports::exemptions(&status.ports).take(most).collect();
    let beyond = all - shown.len();
    Section::sentences("exempt", 9, shown).with_more(beyond, "jit-agent status --json")
}

/// Pushes that were refused in the last hour.
fn refused(status: &v1::StatusResponse, page: Page, now: i64) -> Section {
    let listed = &status.refused;
    let most = page.height.unwrap_or(if page.grants.is_some() { SHOWN } else { usize::MAX });
    let shown: Vec<_> = listed.iter().take(most).map(|push| drops::refused(push, now)).collect();
    let all = usize::try_from(status.refused_last_hour).unwrap_or(usize::MAX).max(listed.len());
    let beyond = all - shown.len();
    Section::sentences("refused", 5, shown).with_more(beyond, "jit-agent denials")
}

/// What was dropped in the last minutes, and since the gate was first put in force.
fn dropped(status: &v1::StatusResponse) -> Vec<String> {
    let recent = status.recent.as_ref().map(drops::recent);
    let since = drops::since_start(status.drops.as_ref().unwrap_or(&v1::Drops::default()));
    match recent {
        Some(recent) => vec![recent, format!("{since}, since the gate was put in force")],
        None => vec![since],
    }
}

fn tables(status: &v1::StatusResponse) -> Vec<String> {
    let times = many(status.foreign, "time");
    let text = format!("{times} not what the agent wrote: put right (audit K001 to K003)");
    (status.foreign > 0).then_some(text).into_iter().collect()
}

fn log(status: &v1::StatusResponse) -> Vec<String> {
    let log = status.log.as_ref().filter(|log| log.dropped_lines > 0);
    let text = log.map(|log| {
        format!("{} dropped: nobody took them in time", many(log.dropped_lines, "line"))
    });
    text.into_iter().collect()
}

/// A pushed policy.
fn policy_text(policy: &v1::PolicyState) -> String {
    let signers = clean(&policy.signers.join(", "), 100);
    let signed = if signers.is_empty() { String::new() } else { format!(" signed by {signers}") };
    format!("version {} of {}{signed}", policy.version, clean(&policy.author, WIDTH))
}

fn control_text(control: &v1::Control, now: i64) -> String {
    let push = push_text(control.last_push_ms, &control.last_controller, now);
    let connected = match (control.connections, control.connections_max) {
        (0, _) => String::new(),
        (now, most) => format!(", {now} of {most} connections"),
    };
    format!("{}{connected}, {push}", listening_text(control))
}

/// When the last push was, and whose.
fn push_text(last_push_ms: i64, by: &str, now: i64) -> String {
    if last_push_ms == 0 {
        return "no push since the start".to_owned();
    }
    let ago = duration(now.saturating_sub(last_push_ms));
    format!("last push {ago} ago by {}", clean(by, 100))
}

/// The connection to a hub.
fn uplink(status: &v1::StatusResponse, now: i64) -> Option<String> {
    let uplink = status.uplink.as_ref()?;
    let hub = clean(&uplink.hub, 100);
    let through = match clean(&uplink.proxy, 100) {
        proxy if proxy.is_empty() => String::new(),
        proxy => format!(" through {proxy}"),
    };
    if uplink.connected {
        let since = duration(now.saturating_sub(uplink.since_ms));
        // With a listening port its line has the push.
        let push = match &status.control {
            Some(_) => String::new(),
            None => format!(", {}", push_text(uplink.last_push_ms, &uplink.last_controller, now)),
        };
        let spare = match clean(&uplink.spare, 100) {
            none if none.is_empty() => none,
            spare => format!(", spare {spare}"),
        };
        return Some(format!("uplink {hub}{through} connected {since}{spare}{push}"));
    }
    let why = match clean(&uplink.last_error, 200) {
        none if none.is_empty() => String::new(),
        why => format!(": {why}"),
    };
    let next = match uplink.next_attempt_in_ms {
        0 => "connecting".to_owned(),
        more => {
            let more = i64::try_from(more).unwrap_or(i64::MAX);
            format!("not connected, next attempt in {}", duration(more.saturating_add(999)))
        }
    };
    // The error names the hub.
    let hub = if why.is_empty() && !hub.is_empty() { format!(" {hub}{through}") } else { why };
    Some(format!("uplink {next}{hub}"))
}

/// What checkpoints say.
fn freshness(status: &v1::StatusResponse, now: i64) -> Option<String> {
    let freshness = status.freshness.as_ref()?;
    let last = match freshness.number {
        0 => "no checkpoint yet".to_owned(),
        number => {
            let ago = duration(now.saturating_sub(freshness.issued_at_ms));
            format!("checkpoint {number} of {ago} ago")
        }
    };
    let since = duration(i64::try_from(freshness.for_ms).unwrap_or(i64::MAX));
    let state = match freshness.state.as_str() {
        "fresh" => "fresh".to_owned(),
        "withheld" if freshness.missing > 0 => {
            format!("withheld for {since}: {} missing", freshness.missing)
        }
        other => format!("{} for {since}", clean(other, 20)),
    };
    let contradiction = match clean(&freshness.contradiction, 20) {
        none if none.is_empty() => String::new(),
        word => {
            let ago = duration(now.saturating_sub(freshness.contradiction_ms));
            format!(", {word} {ago} ago")
        }
    };
    Some(format!("{state}, {last}{contradiction}"))
}

/// What is not as usual with the process that talks to the network.
fn front(status: &v1::StatusResponse, now: i64) -> Vec<String> {
    let Some(front) = &status.front else { return Vec::new() };
    let mut texts = Vec::new();
    if front.ends > 0 {
        let (ends, why) = (many(front.ends, "time"), clean(&front.last_end, 160));
        let ago = duration(now.saturating_sub(front.last_end_ms));
        texts.push(format!("its process ended by itself {ends}, last {ago} ago: {why}"));
    }
    if !front.keeps.is_empty() {
        texts.push(format!(
            "its process keeps what it should not have: {}",
            clean(&front.keeps, 100)
        ));
    }
    texts
}

/// Whether controllers can connect, and where.
fn listening_text(control: &v1::Control) -> String {
    let listen = clean(&control.listen, 100);
    match (control.listening, control.problem.as_str()) {
        // An agent of an earlier version says nothing about it.
        (true, _) | (false, "") => format!("listening on {listen}"),
        (false, problem) => clean(problem, 200),
    }
}

/// Floors of revocations, the latest first.
fn floors(floors: &v1::RevocationFloor) -> Vec<String> {
    let v1::RevocationFloor { all_ms, by_requester } = floors;
    let until = WallTime(*all_ms);
    let mut texts = Vec::new();
    if *all_ms != 0 {
        texts.push(format!("what was signed until {until} is refused"));
    }
    let mut latest: Vec<_> = by_requester.iter().collect();
    latest.sort_by_key(|(name, at)| (std::cmp::Reverse(**at), name.as_str()));
    texts.extend(latest.iter().take(SHOWN_FLOORS).map(|(name, at)| {
        let (name, until) = (clean(name, WIDTH), WallTime(**at));
        format!("what was signed for {name} until {until} is refused")
    }));
    if let Some(more) = latest.len().checked_sub(SHOWN_FLOORS).filter(|more| *more > 0) {
        texts.push(format!("... and for {more} more requesters (status --json)"));
    }
    texts
}
