//! Which host a machine of Azure is: the one whose label `azure_resource_id` names it, otherwise
//! the one whose id is the last part of the machine's.

use std::collections::BTreeMap;

use jit_client::controller::defender::Machine;

use super::trouble::Trouble;
use crate::{
    api::{
        problem::{Failure, Word},
        sight::Sight,
    },
    model::Host,
    rules::Action,
    store::{Store, StoreError},
};

/// The host of each machine, in their order.
///
/// # Errors
/// A machine is none that the caller may see, two are the same host, or he may not configure one.
pub(super) async fn hosts(
    store: &Store,
    sight: &Sight<'_>,
    machines: &[Machine],
) -> Result<Vec<String>, Trouble> {
    let mut labelled = BTreeMap::new();
    let mut has_label = std::collections::BTreeSet::new();
    for (host, resource) in store.hosts_with_resource().await? {
        has_label.insert(host.clone());
        labelled.entry(small(&resource)).or_insert_with(Vec::new).push(host);
    }
    let mut found: Vec<String> = Vec::new();
    for (number, machine) in machines.iter().enumerate() {
        let place = format!("properties.virtualMachines[{number}].id");
        let wrong = |why: String| {
            let failure = Failure::field(&place, why).next(
                "add the host (jitctl hosts put), or give the host that it is the label \
                 azure_resource_id with this id",
            );
            Trouble::new("VirtualMachineNotFound", failure)
        };
        let mut of_machine = labelled.get(&small(&machine.id)).cloned().unwrap_or_default();
        if of_machine.is_empty() {
            // A host that is another machine by its label is not this one by its name.
            of_machine = store.hosts_spelled(&small(machine.name())).await?;
            of_machine.retain(|host| !has_label.contains(host));
        }
        let known = store.hosts_by_id(&of_machine).await?;
        let mut seen = known.into_iter().map(|known| known.host).filter(|host| sight.host(host));
        let Some(host) = seen.next() else {
            return Err(wrong(format!("{} is no host that you may see", machine.id)));
        };
        if let Some(other) = seen.next() {
            let why = format!("{} is {} and {}: which one?", machine.id, host.id, other.id);
            return Err(wrong(why));
        }
        may_configure(sight, &host)?;
        if host.id.contains(',') {
            return Err(wrong(format!("{:?}: a policy comes to no id with a comma", host.id)));
        }
        if found.contains(&host.id) {
            return Err(wrong(format!("{} is {}, which stands there before", machine.id, host.id)));
        }
        found.push(host.id);
    }
    Ok(found)
}

/// Refuses who may not configure what a policy protects now. A host that was removed is nobody's
/// but an administrator's.
pub(super) async fn may_configure_all(
    store: &Store,
    sight: &Sight<'_>,
    hosts: &[String],
) -> Result<(), Trouble> {
    let known = store.hosts_by_id(hosts).await?;
    for host in &known {
        may_configure(sight, &host.host)?;
    }
    if known.len() < hosts.len() && !sight.sees_all() {
        let detail = "a host of this policy was removed: only an administrator can change it";
        return Err(Failure::new(Word::Forbidden, detail).into());
    }
    Ok(())
}

/// Which of these hosts the caller may see, or ask for.
pub(super) async fn visible(
    store: &Store,
    sight: &Sight<'_>,
    hosts: &[String],
) -> Result<Vec<Host>, StoreError> {
    let known = store.hosts_by_id(hosts).await?;
    let known = known.into_iter().map(|known| known.host);
    Ok(known.filter(|host| sight.host(host) || sight.may(Action::Initiate, host)).collect())
}

fn may_configure(sight: &Sight<'_>, host: &Host) -> Result<(), Trouble> {
    if sight.may(Action::Configure, host) {
        return Ok(());
    }
    // Who does not see it hears nothing of it.
    let what = if sight.host(host) { host.id.as_str() } else { "a host of this policy" };
    let detail = format!("the rules do not let you configure {what}");
    Err(Failure::new(Word::Forbidden, detail).into())
}

fn small(text: &str) -> String {
    text.trim_end_matches('/').to_ascii_lowercase()
}
