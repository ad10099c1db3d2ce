//! `jitctl policy`: shows, compares, pushes and confirms which ports a host protects. The agent
//! computes what a policy would change; nothing is decided here.

mod section;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use jit_client::{
    Agent, CallError,
    exit::Exit,
    files::{read, read_text},
    keys::{KeySpec, seal},
    policy_changes as changes, status,
};
use jit_proto::{
    PolicyFile,
    confirm::MAX_WINDOW,
    dsse::MAX_ENVELOPE_BYTES,
    payload_type::POLICY_TYPE,
    port_section::to_toml,
    v1::{self, diff_policy_request::What},
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    connect,
    failure::{self, Failure},
    files::{self, PUBLIC},
    requester::default_requester,
    signing::signing_keys,
    target::AgentArgs,
    text,
};

const EXAMPLES: &str = "\
A policy is a TOML file with the [[port]] sections of the agent's configuration, and optionally
`version` and `hosts`. It replaces everything that the host protects: a port that it does not name
is open to all. [ceiling] in the host's own configuration limits what a policy may say.

Examples:
    jitctl policy show > policy.toml              the policy in force, as a file to edit
    jitctl policy diff policy.toml                who would be affected; changes nothing
    jitctl policy push policy.toml --signing-key release.key --host web-1 --why CHG-77
    jitctl policy confirm                         in 2 minutes, else the one before returns";

/// Arguments of `policy`.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES, after_help = "The file, and examples: jitctl policy --help")]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Print the policy in force, as a file to edit and push
    Show(ShowArgs),
    /// Show what a policy would change, and whether the agent would accept it; change nothing
    Diff(DiffArgs),
    /// Sign a policy and put it in force
    Push(PushArgs),
    /// Confirm a policy that waits, over a new connection
    Confirm(ConfirmArgs),
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
struct DiffArgs {
    /// The policy (TOML), unsigned
    #[arg(group = "what", value_name = "FILE")]
    file: Option<PathBuf>,
    /// A file with a signed policy, written by `push --out`
    #[arg(long, group = "what", value_name = "FILE")]
    envelope: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("what").required(true))]
struct PushArgs {
    /// The policy (TOML)
    #[arg(group = "what", value_name = "FILE", requires = "signing_key", requires = "why")]
    file: Option<PathBuf>,
    /// A file with a signed policy, written by `push --out`
    #[arg(long, group = "what", value_name = "FILE", conflicts_with_all = ["signing_key", "out"])]
    envelope: Option<PathBuf>,
    /// Key that signs, of a [[signer]] with signs = ["policy"]: a PKCS#8 PEM file, ssh-agent:COMMENT,
    /// or pkcs11:... (see `jitctl sign --help`); repeat for several approvals
    #[arg(long, value_name = "KEY")]
    signing_key: Vec<KeySpec>,
    /// Exact id of a host that the policy is for; may be repeated [default: `hosts` in the file]
    #[arg(long, value_name = "ID", num_args = 1..)]
    host: Vec<String>,
    /// Higher than every version before [default: `version` in the file, else one more than the
    /// agent has seen]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,
    /// Why the policy changes, in words
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Who wrote the policy [default: user@hostname]
    #[arg(long, value_name = "NAME")]
    author: Option<String>,
    /// Agents accept the signed policy only before this time: 2027-03-01T08:00:00Z
    #[arg(long, value_name = "RFC3339")]
    until: Option<Timestamp>,
    /// How long the agent waits for `confirm` when somebody is shut out: 1s to 1h [default: 2m]
    #[arg(long, value_name = "TIME", value_parser = text::parse_duration)]
    confirm_within: Option<Duration>,
    /// Confirm at once, over a second connection: this proves that the agent can still be reached
    #[arg(long)]
    confirm: bool,
    /// Revoke the open grants that the policy refuses, also those that an earlier policy or a reload
    /// left (without this, they stay until their end); also needs the permission to revoke
    #[arg(long)]
    strict: bool,
    /// Write the signed envelope to a new file instead of pushing it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["confirm", "strict", "confirm_within"])]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ConfirmArgs {
    /// Version to confirm [default: the one that waits]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(agent_args: &AgentArgs, args: &PolicyArgs) -> Result<Exit, Failure> {
    match &args.command {
        PolicyCommand::Show(args) => show(agent_args, args),
        PolicyCommand::Diff(args) => diff(agent_args, args),
        PolicyCommand::Push(args) => push(agent_args, args),
        PolicyCommand::Confirm(args) => confirm(agent_args, args),
    }
}

fn show(agent_args: &AgentArgs, args: &ShowArgs) -> Result<Exit, Failure> {
    let shown = connect::with(agent_args, async |agent| Ok(agent.show_policy().await?))?;
    let v1::ShowPolicyResponse { state, ports, host } = shown;
    let state = state.unwrap_or_default();
    if args.json {
        let mut value = status::policy_json(&state);
        if let Some(map) = value.as_object_mut() {
            map.insert("host".into(), json!(host));
            map.insert("ports".into(), ports.iter().map(section::json).collect());
        }
        text::print_pretty(&value)?;
        return Ok(Exit::Success);
    }
    let mut out = String::new();
    let mut say = |line: String| {
        out.push_str("# ");
        out.push_str(&text::printable(&line));
        out.push('\n');
    };
    if state.version == 0 {
        say(format!("in force on {host}: the [[port]] sections of its own configuration"));
    } else {
        let issued = text::moment(state.issued_at_ms);
        let (version, author) = (state.version, &state.author);
        say(format!("in force on {host}: version {version} of {author}, issued {issued}"));
        say(format!("why: {}", state.justification));
        say(match state.signers.is_empty() {
            true => "signed by keys that this host no longer trusts".into(),
            false => format!("signed by {}", state.signers.join(", ")),
        });
    }
    if state.confirm_left_ms > 0 {
        say(waits(&state));
    }
    if state.accepts_policies {
        say(format!("the next version must be higher than {}", state.highest_version));
    } else {
        say("this host accepts no policies: its configuration has no [ceiling]".into());
    }
    for port in &ports {
        out.push('\n');
        out.push_str(&to_toml(port));
    }
    text::print(&out)?;
    Ok(Exit::Success)
}

fn diff(agent_args: &AgentArgs, args: &DiffArgs) -> Result<Exit, Failure> {
    let file = args.file.as_deref().map(read_file).transpose()?;
    let envelope = args.envelope.as_deref().map(read_envelope).transpose()?;
    let answer = connect::with(agent_args, async |agent| {
        let what = match (file, envelope) {
            (_, Some(envelope)) => What::Envelope(envelope),
            (Some(file), None) => {
                // The agent compares it as if it were signed now, for this host.
                let shown = agent.show_policy().await?;
                let highest = shown.state.unwrap_or_default().highest_version;
                let version = file.version.unwrap_or_else(|| highest.saturating_add(1));
                What::Policy(v1::Policy {
                    hosts: vec![shown.host],
                    version,
                    issued_at_ms: Timestamp::now().as_millisecond(),
                    not_after_ms: 0,
                    ports: file.sections.iter().map(v1::PolicyPort::from).collect(),
                    author: "jitctl policy diff".into(),
                    justification: "comparison only".into(),
                })
            }
            (None, None) => {
                return Err(Failure::usage("name the policy: FILE, or --envelope FILE"));
            }
        };
        Ok(agent.diff_policy(what).await?)
    })?;
    let v1::DiffPolicyResponse { reason, detail, changes } = answer;
    if args.json {
        let changes = changes.as_ref().map(changes::json);
        text::print_pretty(&json!({ "reason": reason, "detail": detail, "changes": changes }))?;
    } else if let Some(changes) = &changes {
        text::print(&changes::text(changes))?;
    }
    match reason.as_str() {
        "ok" | "known" => Ok(Exit::Success),
        word => Err(CallError::refused(word, &detail).into()),
    }
}

fn push(agent_args: &AgentArgs, args: &PushArgs) -> Result<Exit, Failure> {
    if args.confirm_within.is_some_and(|window| window > MAX_WINDOW || window.as_secs() == 0) {
        let most = text::duration(MAX_WINDOW);
        return Err(Failure::usage(format!("--confirm-within takes 1s to {most}")));
    }
    let envelope = match (&args.file, &args.envelope) {
        (_, Some(path)) => read_envelope(path)?,
        (Some(path), None) => sign(agent_args, args, path)?,
        (None, None) => return Err(Failure::usage("name the policy: FILE, or --envelope FILE")),
    };
    if let Some(path) = &args.out {
        files::write_new(path, &envelope.encode_to_vec(), PUBLIC)?;
        return written(args, path);
    }
    let request = v1::PushPolicyRequest {
        envelope: Some(envelope),
        confirm_within_s: args
            .confirm_within
            .map_or(0, |window| u32::try_from(window.as_secs()).unwrap_or(u32::MAX)),
        strict: args.strict,
    };
    let (answer, name) = connect::with(agent_args, async |agent| {
        Ok((agent.push_policy(request).await?, agent.name()))
    })?;
    let confirmed = answer.confirm_left_ms > 0 && args.confirm;
    if confirmed {
        let version = answer.version;
        connect::with(agent_args, async |agent| Ok(agent.confirm_policy(version).await?))?;
    }
    if !answer.warning.is_empty() {
        failure::warn(&format!("{name}: {}", text::printable(&answer.warning)));
    }
    let pushed = Pushed { answer: &answer, agent: &name, confirmed };
    if args.json {
        text::print_pretty(&pushed.json())?;
    } else {
        text::print(&pushed.text())?;
    }
    Ok(Exit::Success)
}

/// A policy that the agent took.
struct Pushed<'a> {
    answer: &'a v1::PushPolicyResponse,
    agent: &'a str,
    /// This command has confirmed it, too.
    confirmed: bool,
}

impl Pushed<'_> {
    const fn pending(&self) -> bool {
        self.answer.confirm_left_ms > 0
    }

    fn json(&self) -> Value {
        let v1::PushPolicyResponse { reason, version, confirm_left_ms, changes, revoked, warning } =
            self.answer;
        json!({
            "agent": self.agent,
            "reason": reason,
            "version": version,
            "confirm_left_ms": self.pending().then_some(confirm_left_ms),
            "confirmed": self.confirmed,
            "changes": changes.as_ref().map(changes::json),
            "revoked": revoked,
            "warning": warning,
        })
    }

    fn text(&self) -> String {
        let v1::PushPolicyResponse { reason, version, confirm_left_ms, changes, revoked, .. } =
            self.answer;
        let mut out = changes.as_ref().map(changes::text).unwrap_or_default();
        let known = if reason == "known" { " already" } else { "" };
        out.push_str(&format!("policy   version {version} is in force on {}{known}\n", self.agent));
        if *revoked > 0 {
            out.push_str(&format!("revoked  {revoked}\n"));
        }
        if self.confirmed {
            out.push_str("confirm  done, over a second connection\n");
        } else if self.pending() {
            let left = text::duration(whole_seconds(*confirm_left_ms));
            out.push_str(&format!(
                "confirm  within {left} with `jitctl policy confirm`, or the previous policy returns\n"
            ));
        }
        out
    }
}

fn written(args: &PushArgs, path: &Path) -> Result<Exit, Failure> {
    if args.json {
        text::print_json(&json!({ "file": path }))?;
    } else {
        text::print(&format!(
            "written to {}; put it in force with: jitctl policy push --envelope {}\n",
            path.display(),
            path.display()
        ))?;
    }
    Ok(Exit::Success)
}

fn confirm(agent_args: &AgentArgs, args: &ConfirmArgs) -> Result<Exit, Failure> {
    let (version, answer, name) = connect::with(agent_args, async |agent| {
        let version = match args.version {
            Some(version) => version,
            None => waiting(agent).await?,
        };
        Ok((version, agent.confirm_policy(version).await?, agent.name()))
    })?;
    if args.json {
        text::print_json(&json!({ "agent": name, "version": version, "reason": answer.reason }))?;
    } else {
        let before = if answer.reason == "known" { " already" } else { "" };
        text::print(&format!("policy   version {version} stays on {name}{before}\n"))?;
    }
    Ok(Exit::Success)
}

/// The version that waits for its confirmation.
async fn waiting(agent: &mut Agent) -> Result<u64, Failure> {
    let state = agent.show_policy().await?.state.unwrap_or_default();
    if state.confirm_left_ms > 0 {
        return Ok(state.version);
    }
    let detail = format!("no policy waits; version {} is in force", state.version);
    Err(CallError::refused("nothing_pending", &detail).into())
}

fn sign(agent_args: &AgentArgs, args: &PushArgs, path: &Path) -> Result<v1::Envelope, Failure> {
    let file = read_file(path)?;
    let keys = signing_keys(&args.signing_key)?;
    let version = match args.version.or(file.version) {
        Some(version) => version,
        None => connect::with(agent_args, async |agent| Ok(agent.show_policy().await?))?
            .state
            .unwrap_or_default()
            .highest_version
            .saturating_add(1),
    };
    let policy = build(args, &file, version, Timestamp::now(), default_requester)?;
    let envelope = seal(POLICY_TYPE, policy.encode_to_vec(), &keys)?;
    if envelope.encoded_len() > MAX_ENVELOPE_BYTES {
        return Err(Failure::usage(format!(
            "the policy is larger than the {MAX_ENVELOPE_BYTES} bytes that agents accept"
        )));
    }
    Ok(envelope)
}

/// The policy that file and arguments describe. The time and the default author are arguments.
fn build(
    args: &PushArgs,
    file: &PolicyFile,
    version: u64,
    now: Timestamp,
    default_author: impl Fn() -> Option<String>,
) -> Result<v1::Policy, Failure> {
    let hosts = if args.host.is_empty() { &file.hosts } else { &args.host };
    if hosts.is_empty() || hosts.iter().any(|host| host.trim().is_empty()) {
        return Err(Failure::usage(
            "the policy names no hosts: add --host ID, or `hosts = [\"...\"]` in the file, with \
             the ids that `jitctl status` shows. jitctl does not ask an agent for its id, because \
             the agent could name another host",
        ));
    }
    let why = args.why.as_deref().unwrap_or_default().trim();
    if why.is_empty() {
        return Err(Failure::usage("--why is empty; give it a text"));
    }
    let author = match &args.author {
        Some(author) if author.trim().is_empty() => {
            return Err(Failure::usage("--author is empty; give it a text"));
        }
        Some(author) => author.clone(),
        None => default_author().ok_or_else(|| {
            Failure::usage(
                "cannot find out who you are (no USER, no entry in /etc/passwd); add --author NAME",
            )
        })?,
    };
    if version == 0 {
        return Err(Failure::usage("version 0 cannot be pushed: versions start at 1"));
    }
    Ok(v1::Policy {
        hosts: hosts.clone(),
        version,
        issued_at_ms: now.as_millisecond(),
        not_after_ms: args.until.map_or(0, Timestamp::as_millisecond),
        ports: file.sections.iter().map(v1::PolicyPort::from).collect(),
        author,
        justification: why.to_owned(),
    })
}

fn read_file(path: &Path) -> Result<PolicyFile, Failure> {
    let text = read_text(path, "the policy")?;
    text.parse()
        .map_err(|why| Failure::files(format!("cannot use the policy {}: {why}", path.display())))
}

fn read_envelope(path: &Path) -> Result<v1::Envelope, Failure> {
    let bytes = read(path, "the envelope")?;
    match v1::Envelope::decode(bytes.as_slice()) {
        Ok(envelope) if envelope.payload_type == POLICY_TYPE => Ok(envelope),
        _ => Err(Failure::files(format!(
            "{} is not a signed policy; `jitctl policy push --out FILE` writes one",
            path.display()
        ))),
    }
}

/// Milliseconds as a duration, rounded up to whole seconds for display.
fn whole_seconds(milliseconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(milliseconds).unwrap_or(0).div_ceil(1000))
}

fn waits(state: &v1::PolicyState) -> String {
    let left = whole_seconds(state.confirm_left_ms);
    let before = match state.previous_version {
        0 => "the configuration's own sections return".to_owned(),
        version => format!("version {version} returns"),
    };
    format!(
        "not confirmed: {before} in {} unless `jitctl policy confirm` comes first",
        text::duration(left)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: PolicyArgs,
    }

    fn parse(line: &str) -> Result<PolicyCommand, String> {
        let parsed = Line::try_parse_from(["x"].into_iter().chain(line.split_whitespace()));
        parsed.map(|line| line.args.command).map_err(|error| error.to_string())
    }

    fn push(more: &str) -> PushArgs {
        match parse(&format!("push p.toml --signing-key k --why CHG-1 {more}")) {
            Ok(PolicyCommand::Push(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_policy_says_what_file_and_command_line_say() {
        let file: PolicyFile = "version = 3\nhosts = [\"a\", \"b\"]\n[[port]]\nport = 22\n\
                                protocol = \"tcp\"\nsources = [\"10.0.0.0/8\"]"
            .parse()
            .unwrap();
        let now: Timestamp = "2027-03-01T08:00:00Z".parse().unwrap();
        let built = |more: &str| build(&push(more), &file, 3, now, || Some("ana@build".into()));
        let policy = built("").unwrap();
        assert_eq!(policy.hosts, ["a", "b"]);
        assert_eq!((policy.version, policy.not_after_ms), (3, 0));
        assert_eq!(policy.issued_at_ms, now.as_millisecond());
        assert_eq!((policy.author.as_str(), policy.justification.as_str()), ("ana@build", "CHG-1"));
        assert_eq!(policy.ports.len(), 1);
        let policy = built("--host web-1 --author li --until 2027-03-01T09:00:00Z").unwrap();
        assert_eq!((policy.hosts, policy.author), (vec!["web-1".to_owned()], "li".to_owned()));
        assert_eq!(policy.not_after_ms, now.as_millisecond() + 3_600_000);
        let bare: PolicyFile = "".parse().unwrap();
        let failure = build(&push(""), &bare, 1, now, || None).unwrap_err();
        assert!(failure.to_string().contains("--host"), "{failure}");
        assert!(build(&push("--host a"), &bare, 0, now, || Some("x".into())).is_err());
    }

    #[test]
    fn what_does_not_go_together_is_refused_on_the_command_line() {
        for line in [
            "push",
            "push p.toml",
            "push p.toml --signing-key k",
            "push --envelope e --signing-key k",
            "push p.toml --envelope e --signing-key k --why w",
            "push p.toml --signing-key k --why w --out o --confirm",
            "push p.toml --signing-key k --why w --confirm-within soon",
            "diff",
            "diff a --envelope b",
            "confirm --version x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in ["show --json", "diff a", "diff --envelope b", "confirm", "push --envelope e"] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }
}
