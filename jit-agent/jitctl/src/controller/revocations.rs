//! `jitctl revocations`: ends what was granted until now, on many hosts at once, and shows which hosts have
//! carried it out. The controller's rules decide who may.

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{
            RevocationHostView, RevocationInput, RevocationPreview, RevocationView, RevokedWhat,
        },
    },
    exit::Exit,
    status::Page,
};
use jit_proto::words::counted;

use super::{
    Output, ask,
    requests::age,
    session::{Session, To},
    show,
};
use crate::{
    failure::Failure,
    table::{Cell, Table},
    text,
};

/// Hosts that are named without `--all-hosts`.
const NAMED: usize = 20;

const EXAMPLES: &str = "\
Examples:
    jitctl revocations make --every-host --all --reason \"stolen laptop\"
    jitctl revocations make --group web --requester ana@example.org --reason \"left us\" --cut
    jitctl revocations make --host web-1 --grant 01KPEXAMP1E000000000000001 --reason end --preview
    jitctl revocations
    jitctl revocations show 01KPEXAMP1E000000000000002

It ends what was granted until now; what is approved later lives. Hosts that are connected get it
at once, the others as soon as they come. One request alone: jitctl revoke --request ID.

Exit codes of show: 0 every host has carried it out; 1 hosts have not answered yet; 77 a host
refuses it";

/// Arguments of `revocations`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct RevocationsArgs {
    #[command(subcommand)]
    command: Option<RevocationsCommand>,
    /// The most revocations to list, the newest first
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum RevocationsCommand {
    /// End what was granted until now
    Make(MakeArgs),
    /// Show a revocation, with each host that has not carried it out
    Show {
        /// Its id
        id: String,
        /// Show all of its hosts
        #[arg(long)]
        all_hosts: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("where").required(true).multiple(true).args(["host", "group", "every_host"]))]
#[command(group = ArgGroup::new("what").required(true).args(["all", "requester", "grant"]))]
struct MakeArgs {
    /// On this host; may be repeated
    #[arg(long, value_name = "ID")]
    host: Vec<String>,
    /// On the hosts of this group; may be repeated
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// On every host, also on those that are added later
    #[arg(long, conflicts_with_all = ["host", "group"])]
    every_host: bool,
    /// Everything that was granted
    #[arg(long)]
    all: bool,
    /// What this person was granted
    #[arg(long, value_name = "SUBJECT")]
    requester: Option<String>,
    /// This grant; may be repeated
    #[arg(long, value_name = "ID")]
    grant: Vec<String>,
    /// Also end sessions that are open
    #[arg(long)]
    cut: bool,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only show what it would end
    #[arg(long)]
    preview: bool,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

/// Lists, makes and shows revocations.
pub(super) fn run(to: To<'_>, args: &RevocationsArgs) -> Result<Exit, Failure> {
    match &args.command {
        None => list(to, args),
        Some(RevocationsCommand::Make(args)) => to.call(async |session| make(session, args).await),
        Some(RevocationsCommand::Show { id, all_hosts, output }) => to.call(async |session| {
            let view: RevocationView = session.fetch(Call::get(["revocations", id])).await?;
            shown(session, &view, *all_hosts, *output).await
        }),
    }
}

async fn make(session: &Session, args: &MakeArgs) -> Result<Exit, Failure> {
    let input = RevocationInput {
        hosts: args.host.clone(),
        groups: args.group.clone(),
        every_host: args.every_host,
        what: RevokedWhat {
            all: args.all,
            requester: args.requester.clone(),
            grants: args.grant.clone(),
        },
        cut: args.cut,
        reason: args.reason.clone(),
    };
    if args.preview || !args.yes {
        let call = Call::post(["revocations"]).query("preview", "true").json(&input);
        let preview: RevocationPreview = session.fetch(call).await?;
        if args.preview && args.output.json {
            text::print_pretty(&preview)?;
            return Ok(Exit::Success);
        }
        let hosts = counted(preview.hosts, "host");
        let requests = counted(preview.requests.len(), "request");
        if !args.output.json {
            let named = show::first(&preview.requests, preview.requests.len());
            text::print(&format!("it goes to {hosts}, and ends {requests} {named}\n"))?;
        }
        if args.preview {
            return Ok(Exit::Success);
        }
        if !ask::confirm(&format!("Revoke on {hosts} now?"), "--yes")? {
            return Err(Failure::refused("nothing was revoked"));
        }
    }
    let made: RevocationView = session.fetch(Call::post(["revocations"]).json(&input)).await?;
    if args.output.json {
        text::print_pretty(&made)?;
    } else {
        let id = text::printable(&made.id);
        text::print(&format!(
            "made {id}; which hosts have carried it out: jitctl revocations show {id}\n"
        ))?;
    }
    Ok(Exit::Success)
}

async fn shown(
    session: &Session,
    view: &RevocationView,
    all_hosts: bool,
    output: Output,
) -> Result<Exit, Failure> {
    let exit = exit(view);
    if output.json {
        text::print_pretty(view)?;
        return Ok(exit);
    }
    let page = Page::of_stdout(output.colours.style());
    text::print(&table(std::slice::from_ref(view), Timestamp::now().as_millisecond()).text(page))?;
    let answers: &[&str] = if all_hosts { &[""] } else { &["refused", "waiting"] };
    let mut hosts: Vec<RevocationHostView> = Vec::new();
    for answer in answers {
        let call = Call::get(["revocations", &view.id, "hosts"]).query("answer", *answer);
        let most = if all_hosts { None } else { Some(NAMED) };
        hosts.extend(session.list(call, most).await?);
    }
    if !hosts.is_empty() {
        text::print("\n")?;
        text::print(&hosts_table(&hosts).text(Page::of_stdout(output.colours.style())))?;
    }
    Ok(exit)
}

fn exit(view: &RevocationView) -> Exit {
    match view.state.as_str() {
        "delivered" => Exit::Success,
        _ if view.refused > 0 || view.state == "signer_refused" => Exit::Permission,
        _ => Exit::Degraded,
    }
}

fn list(to: To<'_>, args: &RevocationsArgs) -> Result<Exit, Failure> {
    let call = Call::get(["revocations"]).query("limit", args.limit.clamp(1, 500));
    let found: Vec<RevocationView> =
        to.call(async |session| session.list(call, Some(args.limit)).await)?;
    if args.output.json {
        text::print_pretty(&found)?;
    } else if found.is_empty() {
        text::print("no revocations\n")?;
    } else {
        let page = Page::of_stdout(args.output.colours.style());
        text::print(&table(&found, Timestamp::now().as_millisecond()).text(page))?;
    }
    Ok(Exit::Success)
}

fn table(revocations: &[RevocationView], now_ms: i64) -> Table {
    let mut table =
        Table::new(&["ID", "STATE", "AGE", "BY", "WHAT", "DONE", "REFUSED", "WAITING", "WHY"]);
    for one in revocations {
        let why = if one.why.is_empty() { &one.reason } else { &one.why };
        table.row([
            one.id.as_str().into(),
            Cell::word(&one.state),
            age(now_ms, one.made_ms).into(),
            one.author.as_str().into(),
            what(one).into(),
            one.delivered.to_string().into(),
            one.refused.to_string().into(),
            one.waiting.to_string().into(),
            why.as_str().into(),
        ]);
    }
    table
}

/// `all on every host`
fn what(one: &RevocationView) -> String {
    let whose = match (&one.what.requester, one.what.grants.len()) {
        (Some(requester), _) => format!("all of {requester}"),
        (None, 0) => "all".to_owned(),
        (None, count) => counted(count, "grant"),
    };
    let hosts = match one.every_host {
        true => "every host".to_owned(),
        false => show::first(&one.hosts, one.hosts.len()),
    };
    let sessions = if one.cut { ", with sessions" } else { "" };
    format!("{whose} on {hosts}{sessions}")
}

fn hosts_table(hosts: &[RevocationHostView]) -> Table {
    let mut table = Table::new(&["HOST", "ANSWER", "WORD", "DETAIL"]);
    for one in hosts {
        table.row([
            one.host.as_str().into(),
            Cell::word(&one.answer),
            one.word.as_str().into(),
            one.detail.as_str().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use jit_client::status::Style;

    use super::*;

    fn view() -> RevocationView {
        RevocationView {
            id: "01KPEXAMP1E000000000000001".into(),
            state: "delivering".into(),
            every_host: true,
            what: RevokedWhat { all: true, ..RevokedWhat::default() },
            cut: true,
            delivered: 9_998,
            waiting: 2,
            made_ms: 1_000,
            ..RevocationView::default()
        }
    }

    #[test]
    fn a_list_says_what_ends_where_and_how_many_hosts_have_carried_it_out() {
        let text = table(&[view()], 61_000).text(Page::endless(Style::Plain));
        let line = text.lines().nth(1).unwrap();
        assert!(line.contains("delivering  1m"), "{line}");
        assert!(line.contains("all on every host, with sessions"), "{line}");
        assert!(line.contains("9998") && line.contains('2'), "{line}");
    }

    #[test]
    fn the_exit_code_says_whether_all_have_carried_it_out() {
        assert_eq!(exit(&view()), Exit::Degraded);
        assert_eq!(exit(&RevocationView { refused: 1, ..view() }), Exit::Permission);
        assert_eq!(exit(&RevocationView { state: "delivered".into(), ..view() }), Exit::Success);
    }

    #[test]
    fn what_was_named_is_said() {
        let grants = vec!["01KPEXAMP1E000000000000001".to_owned(); 2];
        let on_web = |named| {
            let hosts = vec!["web-1".to_owned()];
            what(&RevocationView { what: named, cut: false, every_host: false, hosts, ..view() })
        };
        let two = RevokedWhat { grants, ..RevokedWhat::default() };
        assert_eq!(on_web(two), "2 grants on web-1");
        let ana = RevokedWhat { requester: Some("ana".into()), ..RevokedWhat::default() };
        assert_eq!(on_web(ana), "all of ana on web-1");
    }
}
