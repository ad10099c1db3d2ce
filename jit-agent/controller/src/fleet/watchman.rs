//! The owner of all tasks: a follower for each host of the store, and the parts of which there is one. It
//! notices when one ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{Shared, follower::Follower};
use crate::{
    audit::Code,
    model::{Host, host::Observed},
    store::StoreError,
};

/// The longest time without a look at the hosts: another process may change them, too.
const LOOK: Duration = Duration::from_secs(30);
/// Up to this number hosts are read one by one.
const FEW: usize = 16;
/// Hosts of one page.
const PAGE: u32 = 500;
/// The most audit records that are read at once.
const RECORDS: u32 = 500;

/// Owns the tasks until it is ended itself.
pub(super) async fn run(shared: Arc<Shared>, mut parts: JoinSet<()>) {
    let mut followers =
        Followers { shared: Arc::clone(&shared), all: BTreeMap::new(), tasks: JoinSet::new() };
    let mut changes = shared.outbox.changes();
    let mut seen = i64::MAX;
    let mut due = Instant::now();
    loop {
        tokio::select! {
            () = sleep_until(due) => {
                match followers.reread().await {
                    Ok(tip) => {
                        seen = tip;
                        due = Instant::now() + LOOK;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the hosts cannot be read");
                        due = Instant::now() + Duration::from_secs(1);
                    }
                }
            }
            () = shared.reread.notified() => due = Instant::now(),
            _ = changes.changed() => {
                if hosts_changed(&shared, &mut seen).await.unwrap_or(true) {
                    due = Instant::now();
                }
            }
            Some(ended) = followers.tasks.join_next_with_id() => followers.ended(ended).await,
            Some(ended) = parts.join_next() => {
                // They run for ever. Without one of them nothing is right: everybody sees it.
                tracing::error!(?ended, "a part of the fleet has ended; hosts get nothing any more");
                return;
            }
        }
    }
}

/// Whether there is a record of a changed host after the one that was seen last.
async fn hosts_changed(shared: &Shared, seen: &mut i64) -> Result<bool, StoreError> {
    let mut changed = false;
    loop {
        let lines = shared.outbox.store().audit_after(*seen, RECORDS).await?;
        let of_hosts = [Code::HostChanged.id(), Code::HostRemoved.id()];
        changed |= lines.iter().any(|line| of_hosts.contains(&line.code.as_str()));
        let Some(last) = lines.last() else { return Ok(changed) };
        *seen = last.seq;
    }
}

struct Followers {
    shared: Arc<Shared>,
    all: BTreeMap<String, (Arc<Host>, AbortHandle)>,
    tasks: JoinSet<()>,
}

impl Followers {
    /// Follows the hosts that the store has now. Returns the audit's end from before it was read.
    async fn reread(&mut self) -> Result<i64, StoreError> {
        let store = self.shared.outbox.store().clone();
        let (tip, _) = store.audit_tip().await?;
        let mut hosts = store.addresses().await?;
        let gone: Vec<_> = self
            .all
            .iter()
            .filter(|(id, (host, _))| match hosts.get(*id) {
                Some(now) => now.address != host.address || now.server_name != host.server_name,
                None => true,
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            if let Some((_, task)) = self.all.remove(&id) {
                task.abort();
                self.shared.roster.remove(&id);
            }
        }
        hosts.retain(|id, _| !self.all.contains_key(id));
        let mut known = self.known(&hosts).await?;
        for (id, host) in hosts {
            let observed = known.remove(&id).unwrap_or_default();
            self.follow(Arc::new(host), observed);
        }
        self.shared.roster.has_been_read();
        self.shared.wake.notify_one();
        Ok(tip)
    }

    /// What is known of hosts. Of many it is read page by page: a statement for each would hold up others.
    async fn known(
        &self,
        of: &BTreeMap<String, Host>,
    ) -> Result<BTreeMap<String, Observed>, StoreError> {
        let store = self.shared.outbox.store();
        let mut known = BTreeMap::new();
        if of.len() < FEW {
            for id in of.keys() {
                known.extend(store.host(id).await?.map(|found| (id.clone(), found.observed)));
            }
            return Ok(known);
        }
        let mut after = String::new();
        loop {
            let page = store.hosts(&after, PAGE, None).await?;
            let Some(last) = page.last() else { return Ok(known) };
            after.clone_from(&last.host.id);
            let wanted = page.into_iter().filter(|found| of.contains_key(&found.host.id));
            known.extend(wanted.map(|found| (found.host.id, found.observed)));
        }
    }

    fn follow(&mut self, host: Arc<Host>, observed: Observed) {
        let link = self.shared.roster.add(Arc::clone(&host));
        let shared = Arc::clone(&self.shared);
        let follower = Box::new(Follower::new(Arc::clone(&host), link, observed, shared));
        let task = self.tasks.spawn(follower.run());
        self.all.insert(host.id.clone(), (host, task));
    }

    async fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) if error.is_cancelled() => return,
            Err(error) => error.id(),
        };
        let found = self.all.values().find(|(_, task)| task.id() == id);
        if let Some(host) = found.map(|(host, _)| Arc::clone(host)) {
            tracing::error!(
                ?ended,
                host = host.id,
                "a host was not followed any more; it is again"
            );
            sleep(Duration::from_millis(100)).await;
            self.follow(host, Observed::default());
        }
    }
}
