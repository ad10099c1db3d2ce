//! `jit-agent why`: would a connection get in, and by what, or what is missing. The loaded programs
//! say so; this asks them through the agent, or by itself when no agent answers.

mod ended;
mod explain;
mod print;
mod refused;

use std::{collections::HashSet, io, net::IpAddr, path::Path, process::ExitCode, time::Duration};

use clap::Args;
use jit_client::{exit::Exit, local};
use jit_common::{Address, PortKey, Protocol};
use jit_proto::{SourcePrefix, WallTime, prefix::bits, printable::clean, v1};
use prost::Message as _;
use tonic::Code;

use crate::{
    config::Glimpse,
    gate::why as answers,
    kernel::datapath::{
        DatapathError, boot_clock,
        verdict::Question,
        view::{self, Foreign, View},
    },
    oncall::{
        agent::{Unreached, connect, undone},
        failure::Failure,
        names::{Late, Reading},
        offline::{live_grants, port_message},
        output::{Colours, complain, print, print_json},
    },
    rules::{
        claims::EXEMPT_SLOT,
        clock::Now,
        reconcile::{Access, Entries, EntryKey},
    },
    system::sys,
};

use explain::Known;
use refused::RefusedPush;

/// The longest wait for an agent; then the programs are asked without it.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How far back refused grants are looked for.
const LATELY: Duration = Duration::from_secs(24 * 3600);
/// Most grants for the port, but for other sources, that are looked at without an agent.
const OTHERS: usize = 64;
const ASK: &str = "ask the loaded programs";

/// The question.
#[derive(Args, Clone, Debug)]
pub struct WhyArgs {
    /// Address that the connection comes from.
    #[arg(value_name = "SOURCE")]
    pub source: IpAddr,
    /// Port that it goes to, on this host.
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// A UDP datagram, not a TCP connection.
    #[arg(long)]
    pub udp: bool,
    /// Only if it comes in by this interface; otherwise: by any.
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The person who tries: also look at the grants of this requester.
    #[arg(long, value_name = "REQUESTER")]
    pub user: Option<String>,
    /// Print JSON (docs/json.md).
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    colours: Colours,
}

impl WhyArgs {
    /// A dual-stack listener reports IPv4 sources as IPv6: those are IPv4 on the wire.
    fn question(&self) -> Question {
        let source = match self.source.to_canonical() {
            IpAddr::V4(v4) => Address::v4(v4.octets()),
            IpAddr::V6(v6) => Address::v6(v6.octets()),
        };
        let protocol = if self.udp { Protocol::Udp } else { Protocol::Tcp };
        Question { source, port: PortKey { protocol, port: self.port } }
    }
}

/// Prints the answer. The exit code is 0: open, or 1: closed.
pub async fn run(config: &Path, args: &WhyArgs) -> Result<ExitCode, Failure> {
    let glimpse = Glimpse::of(config);
    let question = args.question();
    let requester = args.user.as_deref();
    let refused = refused_lately(&glimpse.paths.state, question, args.user.clone());
    let answer = match ask_agent(&glimpse.paths.socket(), question, requester).await? {
        Some(answer) => answer,
        None if sys::missing_capabilities().contains(&"CAP_BPF") => return Err(Failure::NotRoot),
        None => ask_kernel(&glimpse, question, requester, sys::now())?,
    };
    if let Some(name) = &args.interface
        && !answer.interfaces.iter().any(|way| way.name == *name)
    {
        let names: Vec<_> = answer.interfaces.iter().map(|way| way.name.as_str()).collect();
        let error = format!("there is no interface {name} here; there are: {}", names.join(", "));
        return Err(Failure::Undone { what: ASK, error: error.into() });
    }
    let now = sys::now().wall;
    let refused = or_unknown(refused.end(), "refused grants are not known");
    let interface = args.interface.as_deref();
    let known = Known { question, interface, requester, answer: &answer, refused: &refused, now };
    let explained = known.explain();
    if args.json {
        print_json(&print::json(&known, &explained))?;
    } else {
        print(&print::text(&known, &explained, args.colours.style()))?;
    }
    Ok(if explained.open { Exit::Success } else { Exit::Degraded }.into())
}

/// Begins to look for grants that were refused lately.
fn refused_lately(
    state: &Path,
    Question { source, .. }: Question,
    requester: Option<String>,
) -> Late<io::Result<Vec<RefusedPush>>> {
    let lately = i64::try_from(LATELY.as_millis()).unwrap_or(0);
    let since = WallTime(sys::now().wall.0.saturating_sub(lately));
    let state = state.to_owned();
    Late::begin(move || refused::lately(&state, source, requester.as_deref(), since))
}

/// What was read in the audit; nothing, and a sentence, if it cannot be read.
fn or_unknown<T>(read: Result<io::Result<Vec<T>>, String>, what: &str) -> Vec<T> {
    let why = match read {
        Ok(Ok(found)) => return found,
        Ok(Err(error)) => format!("cannot read the audit: {error}"),
        Err(error) => error,
    };
    complain(&format!("{what}: {why}"));
    Vec::new()
}

/// The agent's answer; `None`: it gives none.
async fn ask_agent(
    socket: &Path,
    Question { source, port }: Question,
    requester: Option<&str>,
) -> Result<Option<v1::WhyResponse>, Failure> {
    let length = usize::from(bits(source.family) / 8);
    let request = v1::WhyRequest {
        source: source.bytes().get(..length).unwrap_or_default().to_vec().into(),
        protocol: v1::PortRange::from(port).protocol,
        port: port.port.into(),
        requester: requester.unwrap_or_default().into(),
    };
    let asked = tokio::time::timeout(PATIENCE, async {
        let mut client = connect(socket).await?;
        Ok(client.why(request).await)
    });
    match asked.await {
        Ok(Ok(Ok(answer))) => Ok(Some(answer.into_inner())),
        Ok(Err(Unreached::Denied(error))) => {
            Err(Failure::DeniedSocket { socket: socket.to_owned(), error })
        }
        Ok(Ok(Err(status))) if status.code() == Code::PermissionDenied => Err(undone(ASK, status)),
        Ok(Ok(Err(status))) if !local::is_closed(&status) => {
            let why = clean(status.message(), 400);
            complain(&format!("the agent does not say it ({why}): the kernel is asked"));
            Ok(None)
        }
        Ok(Ok(Err(_)) | Err(_)) | Err(_) => Ok(None),
    }
}

/// Asks the programs over the pins.
fn ask_kernel(
    glimpse: &Glimpse,
    question: Question,
    requester: Option<&str>,
    now: Now,
) -> Result<v1::WhyResponse, Failure> {
    let Glimpse { paths, host, interfaces, .. } = glimpse;
    // Read while the programs are loaded.
    let reading = Reading::begin(paths);
    let ended = {
        let (state, requester) = (paths.state.clone(), requester.map(str::to_owned));
        let wants = move |grant: &v1::Grant| concerns(grant, question, requester.as_deref());
        Late::begin(move || ended::ended(&state, wants))
    };
    // The deadlines in the tables are by the programs' boot clock.
    if let Err(error) = boot_clock::align() {
        complain(&format!("the programs' boot clock cannot be read ({error}): times may be wrong"));
    }
    let view = View::read(&paths.pins, interfaces).map_err(Failure::Unread)?;
    let foreign = || Foreign::read(&paths.pins, interfaces).ok().flatten();
    if !view.as_ref().is_some_and(View::attached)
        && let Some(foreign) = foreign().filter(Foreign::attached)
    {
        let error = format!(
            "another version of the agent (layouts {}) pinned the gate, and this one cannot read \
             its tables; `systemctl start jit-agent` takes it over",
            foreign.version
        );
        return Err(Failure::Undone { what: ASK, error: error.into() });
    }
    let nothing = || v1::WhyResponse {
        host: host.clone(),
        from_tables: true,
        own: answers::is_own(question.source),
        ..v1::WhyResponse::default()
    };
    let Some(view) = view else { return Ok(nothing()) };
    let filled = of_view(&paths.pins, view, question, requester, reading, now);
    let mut filled = filled.map_err(Failure::Unread)?;
    let held: Vec<_> = filled.grants.iter().filter_map(|state| Some(state.signed()?.id)).collect();
    let mut ended = or_unknown(ended.end(), "grants that have ended are not known");
    // One that is still in force has not ended.
    ended.retain(|state| state.signed().is_some_and(|grant| !held.contains(&grant.id)));
    filled.grants.extend(ended);
    let theirs = |state: &v1::GrantState| {
        state.signed().is_some_and(|grant| concerns(&grant, question, requester))
    };
    filled.grants.retain(theirs);
    let v1::WhyResponse { host, own, from_tables, .. } = nothing();
    Ok(v1::WhyResponse { host, own, from_tables, ..filled })
}

/// Whether a grant has to do with the question.
fn concerns(grant: &v1::Grant, question: Question, requester: Option<&str>) -> bool {
    explain::covers(grant, question)
        || explain::opens(grant, question)
        || requester.is_some_and(|name| grant.requester == name)
}

fn of_view(
    pins: &Path,
    view: View,
    question: Question,
    requester: Option<&str>,
    reading: Reading,
    now: Now,
) -> Result<v1::WhyResponse, DatapathError> {
    let View { interfaces, guard, ports, mut entries, slots, .. } = view;
    let Question { source, port } = question;
    let answers = view::ask(pins, question, (&*interfaces, guard.attached), now.boot)?;
    let (names, nameless) = reading.end();
    if let Some(why) = nameless {
        complain(&format!("the grants have no names here: {why}"));
    }
    let rule = ports.get(&port);
    let named = |(key, access): (EntryKey, Access)| {
        let counted = slots.get(&access.slot).copied().unwrap_or_default();
        let grant = names.of_slot(access.slot, counted).filter(|_| access.slot != EXEMPT_SLOT);
        let grant_id = grant.map(|grant| grant.id).unwrap_or_default();
        v1::WhyEntry { grant_id, ..answers::entry(&key, access, &answers.slots, now) }
    };
    let found = answers::covering(source, port, |key| entries.get(key).copied());
    keep_near(&mut entries, question, |slot| {
        let counted = slots.get(&slot).copied().unwrap_or_default();
        requester.is_some_and(|theirs| {
            names.of_slot(slot, counted).is_some_and(|grant| grant.requester == theirs)
        })
    });
    let mut grants = live_grants(&entries, &slots, Some(&names), now);
    grants.extend(names.waiting().iter().map(|grant| waiting(grant, now)));
    Ok(v1::WhyResponse {
        interfaces: answers::ways(
            &answers.ways,
            &guard,
            rule.is_some_and(|rule| rule.forwarded != 0),
        ),
        guard: answers.guard.map(answers::verdict),
        port: rule.map(|rule| port_message(port, rule)),
        entries: found.into_iter().map(named).collect(),
        grants,
        ..v1::WhyResponse::default()
    })
}

/// Keeps the entries of grants that have to do with the question: that cover the source, are
/// `theirs`, by the slot, and a few of the others for the port.
fn keep_near(entries: &mut Entries, question: Question, theirs: impl Fn(u32) -> bool) {
    let Question { source, port } = question;
    let host = SourcePrefix::new(source, bits(source.family)).ok();
    let mut near = HashSet::new();
    let mut others = 0;
    for (key, entry) in entries.iter() {
        let covers = host.is_some_and(|host| key.source.contains(&host));
        for access in entry.accesses().into_iter().filter(|access| access.is_some()) {
            if covers || theirs(access.slot) {
                near.insert(access.slot);
            } else if key.port == port && others < OTHERS && near.insert(access.slot) {
                others += 1;
            }
        }
    }
    entries.retain(|_, entry| {
        entry.accesses().iter().any(|access| access.is_some() && near.contains(&access.slot))
    });
}

/// A grant that has not begun; without an agent it does not begin.
fn waiting(grant: &v1::Grant, now: Now) -> v1::GrantState {
    let ended = grant.not_after_ms <= now.wall.0;
    let state = if ended { v1::State::Expired } else { v1::State::Scheduled };
    v1::GrantState {
        grant: grant.encode_to_vec().into(),
        state: state.into(),
        ..v1::GrantState::default()
    }
}
