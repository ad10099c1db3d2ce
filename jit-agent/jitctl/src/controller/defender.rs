//! `jitctl import-defender` and `export-defender`: policies of Microsoft Defender, from a file into
//! the controller and back. What the controller has no place for is listed, never dropped in
//! silence.

mod args;
mod plan;

pub(crate) use args::{ExportArgs, ImportArgs};
use std::collections::BTreeSet;

use jit_client::{
    controller::{
        call::Call,
        defender::{self, RESOURCE_LABEL},
        types::{HostInput, HostView},
    },
    exit::Exit,
    files::read_up_to,
    status::Page,
};
use jit_proto::words::counted;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::plan::{Plan, Planned};
use super::{
    ask,
    session::{Session, To},
};
use crate::{failure::Failure, text};

/// The version of Defender's API.
const VERSION: &str = "2020-01-01";
/// The largest file that is read, bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The most pages of one list: more than a hundred thousand policies.
const MOST_PAGES: usize = 2000;

/// A list of Defender's API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    value: Vec<Map<String, Value>>,
    next_link: Option<String>,
}

/// Where the page after this one begins.
fn skip_token(link: &str) -> Option<&str> {
    let (_, query) = link.split_once('?')?;
    let mut fields = query.split('&').filter_map(|field| field.split_once('='));
    fields.find(|(name, _)| matches!(*name, "$skipToken" | "%24skipToken")).map(|(_, token)| token)
}

/// Puts the policies of a file.
pub(super) fn import(to: To<'_>, args: &ImportArgs) -> Result<Exit, Failure> {
    let bytes = read_up_to(&args.file, "the file of policies", MAX_BYTES)?;
    let unreadable = |why: String| Failure::files(format!("{}: {why}", args.file.display()));
    let listed = defender::policies(&bytes).map_err(unreadable)?;
    to.call(async |session| {
        let call = Call::get(["hosts"]).query("limit", 200);
        let hosts: Vec<HostView> = session.list(call, None).await?;
        let plan = Plan::of(listed, args, &hosts).map_err(unreadable)?;
        if !args.output.json {
            text::print(&plan.text(Page::of_stdout(args.output.colours.style())))?;
        }
        if !args.dry_run {
            put(session, args, &plan, &hosts).await?;
        }
        if args.output.json {
            text::print_pretty(&plan.json(args.dry_run))?;
        } else if args.dry_run {
            text::print("this was only a trial: nothing was changed\n")?;
        }
        Ok(if plan.left.is_empty() { Exit::Success } else { Exit::Degraded })
    })
}

async fn put(
    session: &Session,
    args: &ImportArgs,
    plan: &Plan,
    hosts: &[HostView],
) -> Result<(), Failure> {
    if plan.policies.is_empty() {
        return Err(Failure::refused("there is nothing to put: nothing was changed"));
    }
    let (policies, protected) = (plan.policies.len(), plan.hosts().len());
    let question = format!(
        "Put {policies} polic{}? On {} these ports then let in nobody without a \
         request.",
        if policies == 1 { "y" } else { "ies" },
        counted(protected, "host")
    );
    if !args.yes && !ask::confirm(&question, "--yes")? {
        return Err(Failure::refused("nothing was changed"));
    }
    for (host, resource) in &plan.labels {
        let Some(view) = hosts.iter().find(|one| one.id == *host) else { continue };
        let mut input = HostInput {
            address: view.address.clone(),
            server_name: view.server_name.clone(),
            labels: view.labels.clone(),
            groups: view.groups.clone(),
        };
        input.labels.insert(RESOURCE_LABEL.to_owned(), resource.clone());
        session.send(Call::put(["hosts", host]).json(&input)).await?;
    }
    for Planned { id, kind, machines, .. } in &plan.policies {
        let machines: Vec<_> = machines.iter().map(|(machine, _)| machine).collect();
        let body = json!({ "kind": kind, "properties": { "virtualMachines": machines } });
        let call = Call::put(id.parts()).at_root().query("api-version", VERSION).json(&body);
        let answer: Value = session.fetch(call).await?;
        let state = answer.pointer("/properties/provisioningState").and_then(Value::as_str);
        if !args.output.json {
            let state = text::printable(state.unwrap_or("unknown"));
            text::print(&format!("put {}: {state}\n", text::printable(&id.to_string())))?;
        }
    }
    Ok(())
}

/// Prints all policies as Defender has them, without requests and states.
pub(super) fn export(to: To<'_>, args: &ExportArgs) -> Result<Exit, Failure> {
    let found = to.call(async |session| {
        let list = async |path: &[&str]| {
            let (mut found, mut token) = (Vec::new(), String::new());
            let mut seen = BTreeSet::new();
            for _ in 0..MOST_PAGES {
                let call = Call::get(path.iter().copied()).at_root().query("api-version", VERSION);
                let page: List = session.fetch(call.query("$skipToken", &token)).await?;
                found.extend(page.value);
                let Some(next) = page.next_link.as_deref().and_then(skip_token) else {
                    return Ok::<_, Failure>(found);
                };
                if !seen.insert(next.to_owned()) {
                    return Err(endless("a page leads to one before it"));
                }
                next.clone_into(&mut token);
            }
            Err(endless(&format!("it has more than {MOST_PAGES} pages")))
        };
        let subscriptions = match args.subscription.as_slice() {
            [] => {
                let each = list(&["subscriptions"]).await?.into_iter();
                let id = |one: Map<String, Value>| {
                    one.get("subscriptionId")?.as_str().map(str::to_owned)
                };
                each.filter_map(id).collect()
            }
            named => named.to_vec(),
        };
        let mut found = Vec::new();
        for subscription in &subscriptions {
            let path = [
                "subscriptions",
                subscription,
                "providers",
                "Microsoft.Security",
                "jitNetworkAccessPolicies",
            ];
            found.extend(list(&path).await?.into_iter().map(kept));
        }
        Ok(found)
    })?;
    text::print_pretty(&found)?;
    Ok(Exit::Success)
}

/// Nothing is printed: a part would look like the whole.
fn endless(why: &str) -> Failure {
    Failure::unavailable(format!(
        "the controller's list of policies has no end: {why}; nothing was exported: ask who runs it"
    ))
}

/// A policy without what is not of it, but of this moment.
fn kept(mut policy: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Object(properties)) = policy.get_mut("properties") {
        properties.remove("requests");
        properties.remove("provisioningState");
    }
    policy
}
