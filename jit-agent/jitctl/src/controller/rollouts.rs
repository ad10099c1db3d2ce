//! `jitctl rollouts`: brings a policy to hosts in waves. The controller decides when a wave begins and what
//! halts it; each host returns to the policy before unless it is confirmed.

use std::{path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use jit_client::{
    controller::{
        call::Call,
        types::{RolloutInput, RolloutPlan, RolloutView},
    },
    exit::Exit,
    status::Page,
};
use jit_proto::words::counted;

use super::{
    Output, ask, policies,
    requests::age,
    rollout::{self, Shown},
    session::{Session, To},
    show,
};
use crate::{
    failure::{self, Failure},
    table::{Cell, Table},
    text,
};

/// The longest wait without `--timeout`: a rollout with pauses of days ends earlier.
const LONG: Duration = Duration::from_secs(30 * 86_400);

const EXAMPLES: &str = "\
A wave is LABEL=VALUE, group:NAME, hosts:ID,ID, N% (of all hosts of the controller, those of the
waves before included), or all. A host is in the first wave that selects it; hosts that none
selects keep what they have. A rollout halts at the first host that refuses, degrades or stays
silent.

Examples:
    jitctl rollouts start policy.toml --why CHG-77 --wave env=canary --wave 10% --wave all
    jitctl rollouts start policy.toml --why CHG-77 --wave all --preview      changes nothing
    jitctl rollouts start --policy 01KPEXAMP1E000000000000001 --wave all     an older one again
    jitctl rollouts watch 01KPEXAMP1E000000000000002
    jitctl rollouts halt 01KPEXAMP1E000000000000002       stops it for now
    jitctl rollouts resume 01KPEXAMP1E000000000000002     after the host that halted it was mended

Exit codes of start, watch and resume: 0 done; 1 halted, a host is degraded; 77 halted, a host
refuses, or aborted; 69 halted, a host is silent, or it still goes on (--no-wait: 0)
Signing policies is off in a new controller: [signer.limits] policies in its controller.toml.";

/// Arguments of `rollouts`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct RolloutsArgs {
    #[command(subcommand)]
    command: Option<RolloutsCommand>,
    /// The most rollouts to list, the newest first
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum RolloutsCommand {
    /// Bring a policy to hosts, and show how that goes
    Start(StartArgs),
    /// Show a rollout, with each host that is not as it should be
    Show {
        /// Its id
        id: String,
        /// Show all of its hosts
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show how a rollout goes, until it ends or halts
    Watch {
        /// Its id
        id: String,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// Stop a rollout for now: no host gets the policy until it goes on; hosts that have it keep it
    Halt {
        /// Its id
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Go on with a rollout that has halted: the hosts that halted it are tried again
    Resume {
        /// Its id
        id: String,
        #[command(flatten)]
        wait: Wait,
        #[command(flatten)]
        output: Output,
    },
    /// End a rollout: hosts that have the policy keep it, the others keep what they have
    Abort {
        /// Its id
        id: String,
        /// Ask nothing
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// For how long a rollout is watched.
#[derive(Args, Clone, Copy, Debug)]
struct Wait {
    /// Do not wait for its end; it goes on without this command in any case
    #[arg(long)]
    no_wait: bool,
    /// Wait at most this long [default: until it ends or halts]
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration, conflicts_with = "no_wait")]
    wait: Option<Duration>,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
struct StartArgs {
    /// The policy, TOML: jitctl policies --help
    #[arg(group = "what", value_name = "FILE", requires = "why")]
    file: Option<PathBuf>,
    /// A policy that the controller keeps: jitctl policies
    #[arg(long, group = "what", value_name = "ID")]
    policy: Option<String>,
    /// Why the policy changes, in words
    #[arg(long, value_name = "TEXT", conflicts_with = "policy")]
    why: Option<String>,
    /// Hosts that get it at the same time: env=canary, group:web, 10%, all; repeat in order
    #[arg(long, value_name = "WAVE", required = true)]
    wave: Vec<String>,
    /// How long the hosts of a wave must stay well before the next begins [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = parse_pause)]
    pause: Option<Duration>,
    /// How long a host waits for the confirmation before it returns to the policy before: 10s to 1h
    /// [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration)]
    confirm_within: Option<Duration>,
    /// Only show which hosts each wave has
    #[arg(long)]
    preview: bool,
    /// Ask nothing
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    output: Output,
}

/// A pause may be none.
fn parse_pause(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") { Ok(Duration::ZERO) } else { text::parse_duration(text) }
}

/// Lists, begins, shows and changes rollouts.
pub(super) fn run(to: To<'_>, args: &RolloutsArgs) -> Result<Exit, Failure> {
    match &args.command {
        None => list(to, args),
        Some(RolloutsCommand::Start(args)) => to.call(async |session| start(session, args).await),
        Some(RolloutsCommand::Show { id, all, output }) => to.call(async |session| {
            let view = session.fetch(rollout::read(id)).await?;
            Shown::of(session, view).await?.print(*all, *output)?;
            Ok(Exit::Success)
        }),
        Some(RolloutsCommand::Watch { id, wait, output }) => to.call(async |session| {
            let view = session.fetch(rollout::read(id)).await?;
            followed(session, view, *wait, *output).await
        }),
        // It asks nothing: who halts is in a hurry, and `resume` undoes it.
        Some(RolloutsCommand::Halt { id, output }) => to.call(async |session| {
            let view = session.fetch(Call::post(["rollouts", id, "halt"])).await?;
            Shown::of(session, view).await?.print(false, *output)?;
            Ok(Exit::Success)
        }),
        Some(RolloutsCommand::Resume { id, wait, output }) => to.call(async |session| {
            let view = session.fetch(Call::post(["rollouts", id, "resume"])).await?;
            followed(session, view, *wait, *output).await
        }),
        Some(RolloutsCommand::Abort { id, yes, output }) => to.call(async |session| {
            let question = format!("End the rollout {}?", text::printable(id));
            if !*yes && !ask::confirm(&question, "--yes")? {
                return Err(Failure::refused("nothing was ended"));
            }
            let view = session.fetch(Call::post(["rollouts", id, "abort"])).await?;
            Shown::of(session, view).await?.print(false, *output)?;
            Ok(Exit::Success)
        }),
    }
}

async fn start(session: &Session, args: &StartArgs) -> Result<Exit, Failure> {
    let policy = args.file.as_deref().zip(args.why.as_deref());
    let policy = policy.map(|(file, why)| policies::read(file, why)).transpose()?;
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let mut input = RolloutInput {
        policy: args.policy.clone().unwrap_or_default(),
        waves: args.wave.clone(),
        confirm_ms: args.confirm_within.map(millis),
        pause_ms: args.pause.map(millis),
        ..RolloutInput::default()
    };
    let preview = Call::post(["rollouts"]).query("preview", "true").json(&input);
    let plan: RolloutPlan = session.fetch(preview).await?;
    if args.preview && args.output.json {
        text::print_pretty(&plan)?;
        return Ok(Exit::Success);
    }
    if !args.output.json {
        text::print(&planned(&plan).text(Page::of_stdout(args.output.colours.style())))?;
    }
    if args.preview {
        return Ok(Exit::Success);
    }
    let hosts: usize = plan.waves.iter().map(|wave| wave.hosts.len()).sum();
    if hosts == 0 {
        return Err(Failure::refused("the waves select no host: nothing was begun"));
    }
    let question = format!("Bring the policy to {}?", counted(hosts, "host"));
    if !args.yes && !ask::confirm(&question, "--yes")? {
        return Err(Failure::refused("nothing was begun"));
    }
    if let Some(policy) = &policy {
        input.policy = policies::save(session, policy).await?.id;
    }
    let begun = session.fetch::<RolloutView>(Call::post(["rollouts"]).json(&input)).await;
    let view = begun.inspect_err(|_| {
        if policy.is_some() {
            failure::note(&format!(
                "the policy is kept, and no rollout has begun; to try again: jitctl rollouts start \
                 --policy {}",
                text::printable(&input.policy)
            ));
        }
    })?;
    followed(session, view, args.wait, args.output).await
}

/// Shows how it goes and what it came to.
async fn followed(
    session: &Session,
    view: RolloutView,
    wait: Wait,
    output: Output,
) -> Result<Exit, Failure> {
    if wait.no_wait {
        Shown::of(session, view).await?.print(false, output)?;
        return Ok(Exit::Success);
    }
    let most = wait.wait.unwrap_or(LONG);
    let view = rollout::ended(session, view, most, output.json).await?;
    let shown = Shown::of(session, view).await?;
    shown.print(false, output)?;
    Ok(shown.exit())
}

fn planned(plan: &RolloutPlan) -> Table {
    let mut table = Table::new(&["WAVE", "SELECTS", "HOSTS", "THESE"]);
    for (number, wave) in plan.waves.iter().enumerate() {
        table.row([
            (number + 1).to_string().into(),
            wave.name.as_str().into(),
            wave.hosts.len().to_string().into(),
            show::first(&wave.hosts, wave.hosts.len()).into(),
        ]);
    }
    table
}

fn list(to: To<'_>, args: &RolloutsArgs) -> Result<Exit, Failure> {
    let call = Call::get(["rollouts"]).query("limit", args.limit.clamp(1, 500));
    let found: Vec<RolloutView> =
        to.call(async |session| session.list(call, Some(args.limit)).await)?;
    if args.output.json {
        text::print_pretty(&found)?;
    } else if found.is_empty() {
        text::print("no rollouts\n")?;
    } else {
        let page = Page::of_stdout(args.output.colours.style());
        text::print(&table(&found, Timestamp::now().as_millisecond()).text(page))?;
    }
    Ok(Exit::Success)
}

fn table(rollouts: &[RolloutView], now_ms: i64) -> Table {
    let mut table = Table::new(&["ID", "STATE", "AGE", "BY", "WAVE", "WHY"]);
    for one in rollouts {
        table.row([
            one.id.as_str().into(),
            Cell::word(&one.state),
            age(now_ms, one.created_ms).into(),
            one.author.as_str().into(),
            rollout::wave(one).into(),
            one.why.as_str().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use jit_client::{controller::types::WavePlan, status::Style};

    use super::*;

    #[test]
    fn the_plan_names_the_first_hosts_of_each_wave() {
        let wave = |name: &str, hosts: &[&str]| WavePlan {
            name: name.into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        let plan = RolloutPlan { waves: vec![wave("env=canary", &["web-1"]), wave("all", &[])] };
        let text = planned(&plan).text(Page::endless(Style::Plain));
        assert!(text.contains("1     env=canary  1      web-1\n"), "{text}");
        assert!(text.ends_with("2     all         0\n"), "{text}");
    }

    #[test]
    fn a_pause_may_be_none() {
        assert_eq!(parse_pause("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_pause("10m"), Ok(Duration::from_secs(600)));
        assert!(parse_pause("x").is_err());
    }
}
