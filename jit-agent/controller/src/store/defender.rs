//! Policies of Defender's API: what was put, what each host should protect by it, and the requests
//! that were submitted by it.

use std::collections::BTreeMap;

use jit_client::controller::defender;
use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use super::{
    Request, Store, StoreError, Tx,
    error::{json, to_json},
    hosts::IDS,
    requests::request,
    rollouts,
};
use crate::model::{
    Answer,
    rollout::{HostState, RolloutState},
};

/// A policy that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefenderPolicy {
    /// A ULID.
    pub id: String,
    /// Subscription, resource group, location and name in small letters, with `/` between.
    pub key: String,
    /// As it was written first.
    pub subscription: String,
    /// As it was written first.
    pub resource_group: String,
    /// As it was written first.
    pub location: String,
    /// As it was written first.
    pub name: String,
    /// `Basic`
    pub kind: String,
    /// Rises with each change, from 1.
    pub revision: i64,
    /// Who changed it last: a subject.
    pub changed_by: String,
    /// When, milliseconds since the Unix epoch.
    pub changed_ms: i64,
    /// Its machines, as they were put.
    pub machines: Vec<DefenderMachine>,
}

/// A machine of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefenderMachine {
    /// Its id in Azure.
    pub resource: String,
    /// The host that it is.
    pub host: String,
    /// Its ports.
    pub ports: Vec<defender::Port>,
}

/// What a host should protect, and how that comes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefenderHost {
    /// Id of the host.
    pub host: String,
    /// The ports of all policies that name it.
    pub wanted: Vec<defender::Port>,
    /// Who wants it: a subject.
    pub author: String,
    /// Why, in words.
    pub why: String,
    /// The rollout that brings it; empty: none has begun; `-`: there was nothing to change.
    pub rollout: String,
    /// Why it will not come to the host; empty: it will, or has.
    pub trouble: String,
    /// What was brought to it last, or refused by it, as TOML.
    pub brought: String,
    /// What it had of these policies then, as TOML.
    pub had: String,
    /// What stood at these ports before, as TOML.
    pub replaced: String,
    /// Rises with each change of what is wanted, and when that begins to come.
    pub revision: i64,
}

/// How far the host of a rollout is, and since when (milliseconds since the Unix epoch); `None`:
/// there is no such host in it.
pub type HostProgress = Option<(HostState, i64)>;

impl Store {
    /// Policies of a subscription, and of a resource group or a location of it if they are not
    /// empty; all in small letters. In the order of their keys: those after `after`, at most
    /// `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_policies(
        &self,
        subscription: &str,
        resource_group: &str,
        location: &str,
        after: &str,
        most: u32,
    ) -> Result<Vec<DefenderPolicy>, StoreError> {
        let rows = "SELECT * FROM defender_policy WHERE LOWER(subscription) = $1 \
                    AND ($2 = '' OR LOWER(resource_group) = $2) \
                    AND ($3 = '' OR REPLACE(LOWER(location), ' ', '') = $3) \
                    AND key > $4 ORDER BY key LIMIT $5";
        let rows = query(rows).bind(subscription).bind(resource_group).bind(location);
        let rows = rows.bind(after).bind(i64::from(most));
        let mut found = Vec::new();
        for row in rows.fetch_all(self.pool()).await? {
            let mut found_one = policy(&row)?;
            found_one.machines = self.defender_machines(&found_one.id).await?;
            found.push(found_one);
        }
        Ok(found)
    }

    /// Subscriptions that have policies, in small letters.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_subscriptions(&self) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT DISTINCT LOWER(subscription) AS subscription FROM defender_policy \
                    ORDER BY subscription LIMIT 5000";
        let rows = query(rows).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("subscription")?)).collect()
    }

    /// Hosts that policies of a subscription name; the subscription in small letters.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_hosts_of(&self, subscription: &str) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT DISTINCT host FROM defender_machine JOIN defender_policy \
                    ON defender_policy.id = defender_machine.policy \
                    WHERE LOWER(subscription) = $1 ORDER BY host";
        let rows = query(rows).bind(subscription).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("host")?)).collect()
    }

    /// The policy with this key.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_policy(&self, key: &str) -> Result<Option<DefenderPolicy>, StoreError> {
        let row = query("SELECT * FROM defender_policy WHERE key = $1").bind(key);
        let Some(row) = row.fetch_optional(self.pool()).await? else { return Ok(None) };
        let mut found = policy(&row)?;
        found.machines = self.defender_machines(&found.id).await?;
        Ok(Some(found))
    }

    async fn defender_machines(&self, policy: &str) -> Result<Vec<DefenderMachine>, StoreError> {
        let rows = query("SELECT * FROM defender_machine WHERE policy = $1 ORDER BY place");
        rows.bind(policy).fetch_all(self.pool()).await?.iter().map(machine).collect()
    }

    /// What these hosts should protect, by host, and how far each is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_hosts(
        &self,
        ids: &[String],
    ) -> Result<BTreeMap<String, (DefenderHost, HostProgress)>, StoreError> {
        let mut found = BTreeMap::new();
        for some in ids.chunks(IDS) {
            let places: Vec<_> = (1..=some.len()).map(|number| format!("${number}")).collect();
            // Only numbers of places are put in.
            let rows = AssertSqlSafe(format!(
                "SELECT defender_host.*, rollout_host.state AS progress, rollout_host.changed_ms AS \
                 progress_ms FROM defender_host LEFT JOIN rollout_host \
                 ON rollout_host.rollout = defender_host.rollout \
                 AND rollout_host.host = defender_host.host WHERE defender_host.host IN ({})",
                places.join(", ")
            ));
            let rows = some.iter().fold(query(rows), |rows, id| rows.bind(id.as_str()));
            for row in rows.fetch_all(self.pool()).await? {
                let host = host(&row)?;
                found.insert(host.host.clone(), (host, progress(&row)?));
            }
        }
        Ok(found)
    }

    /// Hosts for which no rollout has begun, by id: those after `after`, at most `most`; without
    /// those that do not answer: their turn comes when they do.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_hosts_waiting(
        &self,
        after: &str,
        most: u32,
    ) -> Result<Vec<DefenderHost>, StoreError> {
        let rows = "SELECT * FROM defender_host WHERE rollout = '' AND trouble = '' AND host > $1 \
                    AND NOT EXISTS (SELECT 1 FROM host WHERE host.id = defender_host.host \
                    AND host.condition = 'unreachable') ORDER BY host LIMIT $2";
        let rows = query(rows).bind(after).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(host).collect()
    }

    /// Hosts whose turn did not come because another host halted the rollout wait for another one,
    /// and are left out of the halted one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_hosts_again(&self, now_ms: i64) -> Result<(), StoreError> {
        let rows = "SELECT DISTINCT rollout.id AS id FROM defender_host \
                    JOIN rollout ON rollout.id = defender_host.rollout AND rollout.state = 'halted' \
                    JOIN rollout_host ON rollout_host.rollout = rollout.id \
                    AND rollout_host.host = defender_host.host \
                    AND rollout_host.state IN ('waiting', 'signing') ORDER BY rollout.id";
        for row in query(rows).fetch_all(self.pool()).await? {
            let id: &str = row.try_get("id")?;
            let mut tx = self.begin().await?;
            let halted = rollouts::lock(&mut tx, id).await?;
            if halted.is_some_and(|rollout| rollout.state == RolloutState::Halted) {
                leave(&mut tx, id, now_ms).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    /// Ids of hosts whose label says that they are a machine of Azure, with that label's host's
    /// labels.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts_with_resource(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows = "SELECT id, labels_json FROM host WHERE labels_json LIKE $1 ORDER BY id";
        let label = defender::RESOURCE_LABEL;
        let rows = query(rows).bind(format!("%\"{label}\"%")).fetch_all(self.pool()).await?;
        let mut found = Vec::new();
        for row in &rows {
            let labels: BTreeMap<String, String> =
                json("labels of a host", row.try_get("labels_json")?)?;
            if let Some(resource) = labels.get(label) {
                found.push((row.try_get("id")?, resource.clone()));
            }
        }
        Ok(found)
    }

    /// Ids of hosts that are this one in small letters.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts_spelled(&self, small: &str) -> Result<Vec<String>, StoreError> {
        let rows = query("SELECT id FROM host WHERE LOWER(id) = $1 ORDER BY id").bind(small);
        let rows = rows.fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// Requests that were submitted by a policy since then, the newest first; at most 1000.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_requests(
        &self,
        policy: &str,
        since_ms: i64,
    ) -> Result<Vec<Request>, StoreError> {
        let rows = "SELECT request.* FROM defender_request JOIN request \
                    ON request.requester = defender_request.requester \
                    AND request.idempotency_key = defender_request.idempotency_key \
                    WHERE defender_request.policy = $1 AND defender_request.at_ms >= $2 \
                    ORDER BY request.id DESC LIMIT 1000";
        let rows = query(rows).bind(policy).bind(since_ms).fetch_all(self.pool()).await?;
        rows.iter().map(request).collect()
    }

    /// What the hosts of these requests have answered: request, host, answer.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn defender_answers(
        &self,
        policy: &str,
        since_ms: i64,
    ) -> Result<Vec<(String, String, Answer)>, StoreError> {
        let rows = "SELECT delivery.request AS request, delivery.host AS host, \
                    delivery.answer AS answer FROM defender_request JOIN request \
                    ON request.requester = defender_request.requester \
                    AND request.idempotency_key = defender_request.idempotency_key \
                    JOIN delivery ON delivery.request = request.id \
                    WHERE defender_request.policy = $1 AND defender_request.at_ms >= $2";
        let rows = query(rows).bind(policy).bind(since_ms).fetch_all(self.pool()).await?;
        let answer = |row: &AnyRow| {
            let word: &str = row.try_get("answer")?;
            let answer =
                Answer::of_word(word).ok_or_else(|| StoreError::corrupt("answer", word))?;
            Ok((row.try_get("request")?, row.try_get("host")?, answer))
        };
        rows.iter().map(answer).collect()
    }
}

/// Writes a policy and its machines. The revision must be one more than the one that was read, or
/// 1.
///
/// # Errors
/// [`StoreError::Conflict`]: somebody else has changed it meanwhile.
pub async fn put(tx: &mut Tx, new: &DefenderPolicy) -> Result<(), StoreError> {
    let conflict = || StoreError::Conflict(format!("the policy {}", new.key));
    if new.revision == 1 {
        let statement = "INSERT INTO defender_policy (id, key, subscription, resource_group, \
                         location, name, kind, revision, changed_by, changed_ms) \
                         VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $9)";
        let inserted = query(statement)
            .bind(new.id.as_str())
            .bind(new.key.as_str())
            .bind(new.subscription.as_str())
            .bind(new.resource_group.as_str())
            .bind(new.location.as_str())
            .bind(new.name.as_str())
            .bind(new.kind.as_str())
            .bind(new.changed_by.as_str())
            .bind(new.changed_ms)
            .execute(&mut **tx)
            .await
            .map_err(StoreError::from);
        inserted.map_err(|error| if error.is_duplicate() { conflict() } else { error })?;
    } else {
        let update = "UPDATE defender_policy SET kind = $2, revision = $3, changed_by = $4, \
                      changed_ms = $5 WHERE id = $1 AND revision = $3 - 1";
        let done = query(update)
            .bind(new.id.as_str())
            .bind(new.kind.as_str())
            .bind(new.revision)
            .bind(new.changed_by.as_str())
            .bind(new.changed_ms)
            .execute(&mut **tx)
            .await?;
        if done.rows_affected() != 1 {
            return Err(conflict());
        }
    }
    let delete = query("DELETE FROM defender_machine WHERE policy = $1").bind(new.id.as_str());
    delete.execute(&mut **tx).await?;
    let statement = "INSERT INTO defender_machine (policy, place, resource, host, ports_json) \
                     VALUES ($1, $2, $3, $4, $5)";
    for (place, machine) in (0_i64..).zip(&new.machines) {
        query(statement)
            .bind(new.id.as_str())
            .bind(place)
            .bind(machine.resource.as_str())
            .bind(machine.host.as_str())
            .bind(to_json(&machine.ports))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Removes a policy with this revision, its machines, and the list of requests that were submitted
/// by it.
///
/// # Errors
/// [`StoreError::Conflict`]: somebody else has changed it meanwhile.
pub async fn remove(tx: &mut Tx, old: &DefenderPolicy) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM defender_request WHERE policy = $1",
        "DELETE FROM defender_machine WHERE policy = $1",
    ] {
        query(statement).bind(old.id.as_str()).execute(&mut **tx).await?;
    }
    let delete = query("DELETE FROM defender_policy WHERE id = $1 AND revision = $2");
    let done = delete.bind(old.id.as_str()).bind(old.revision).execute(&mut **tx).await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::Conflict(format!("the policy {}", old.key))),
    }
}

/// Keys of policies that name a host, with the ports of each, as this transaction sees them.
///
/// # Errors
/// Those of the database.
pub async fn ports_of_host(
    tx: &mut Tx,
    host: &str,
) -> Result<Vec<(String, Vec<defender::Port>)>, StoreError> {
    let rows = "SELECT defender_policy.key AS key, ports_json FROM defender_machine \
                JOIN defender_policy ON defender_policy.id = defender_machine.policy \
                WHERE host = $1 ORDER BY key";
    let rows = query(rows).bind(host).fetch_all(&mut **tx).await?;
    rows.iter().map(|row| Ok((row.try_get("key")?, ports(row.try_get("ports_json")?)?))).collect()
}

/// Sets what a host should protect. With `again` it is brought there even if nothing has changed.
///
/// # Errors
/// Those of the database.
pub async fn want(
    tx: &mut Tx,
    host: &str,
    wanted: &[defender::Port],
    author: &str,
    why: &str,
    again: bool,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO defender_host (host, wanted_json, author, why, rollout, trouble, \
                     brought, had, replaced, revision) \
                     VALUES ($1, $2, $3, $4, '', '', '', '', '', 1) \
                     ON CONFLICT (host) DO UPDATE SET wanted_json = excluded.wanted_json, \
                     author = excluded.author, why = excluded.why, rollout = '', trouble = '', \
                     revision = defender_host.revision + 1 \
                     WHERE $5 = 1 OR defender_host.wanted_json <> excluded.wanted_json";
    query(statement)
        .bind(host)
        .bind(to_json(&wanted))
        .bind(author)
        .bind(why)
        .bind(i64::from(again))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Keeps what is brought to a host that waits for it, with what stood there, and which rollout
/// brings it or why none will. Returns whether it still waited for the same.
///
/// # Errors
/// Those of the database.
pub async fn bring(tx: &mut Tx, of: &DefenderHost) -> Result<bool, StoreError> {
    // The revision rises: who has read the host before this does not bring it the same once more.
    let update = "UPDATE defender_host SET brought = $3, had = $4, replaced = $5, rollout = $6, \
                  trouble = $7, revision = revision + 1 \
                  WHERE host = $1 AND revision = $2 AND rollout = '' AND trouble = ''";
    let done = query(update)
        .bind(of.host.as_str())
        .bind(of.revision)
        .bind(of.brought.as_str())
        .bind(of.had.as_str())
        .bind(of.replaced.as_str())
        .bind(of.rollout.as_str())
        .bind(of.trouble.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Leaves hosts whose turn has not come out of a rollout that was locked while it is halted.
async fn leave(tx: &mut Tx, rollout: &str, now_ms: i64) -> Result<(), StoreError> {
    let update = "UPDATE rollout_host SET state = 'skipped', version = 0, payload = $2, \
                  envelope = $2, changed_ms = $3 WHERE rollout = $1 \
                  AND state IN ('waiting', 'signing') AND host IN \
                  (SELECT host FROM defender_host WHERE rollout = $1) RETURNING host";
    let rows = query(update).bind(rollout).bind(Vec::<u8>::new()).bind(now_ms);
    let rows = rows.fetch_all(&mut **tx).await?;
    let mut hosts = rows
        .iter()
        .map(|row| Ok(row.try_get("host")?))
        .collect::<Result<Vec<String>, StoreError>>()?;
    // In one order: a policy that is put changes several of them too.
    hosts.sort();
    let update = "UPDATE defender_host SET rollout = '' WHERE rollout = $1 AND host = $2";
    for host in hosts {
        query(update).bind(rollout).bind(host).execute(&mut **tx).await?;
    }
    Ok(())
}

/// Takes note that a request with this key is submitted by a policy.
///
/// # Errors
/// Those of the database.
pub async fn asked(
    tx: &mut Tx,
    policy: &str,
    requester: &str,
    key: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO defender_request (requester, idempotency_key, policy, at_ms) \
                     VALUES ($1, $2, $3, $4)";
    query(statement).bind(requester).bind(key).bind(policy).bind(now_ms).execute(&mut **tx).await?;
    Ok(())
}

fn policy(row: &AnyRow) -> Result<DefenderPolicy, StoreError> {
    Ok(DefenderPolicy {
        id: row.try_get("id")?,
        key: row.try_get("key")?,
        subscription: row.try_get("subscription")?,
        resource_group: row.try_get("resource_group")?,
        location: row.try_get("location")?,
        name: row.try_get("name")?,
        kind: row.try_get("kind")?,
        revision: row.try_get("revision")?,
        changed_by: row.try_get("changed_by")?,
        changed_ms: row.try_get("changed_ms")?,
        machines: Vec::new(),
    })
}

fn machine(row: &AnyRow) -> Result<DefenderMachine, StoreError> {
    Ok(DefenderMachine {
        resource: row.try_get("resource")?,
        host: row.try_get("host")?,
        ports: ports(row.try_get("ports_json")?)?,
    })
}

fn host(row: &AnyRow) -> Result<DefenderHost, StoreError> {
    Ok(DefenderHost {
        host: row.try_get("host")?,
        wanted: ports(row.try_get("wanted_json")?)?,
        author: row.try_get("author")?,
        why: row.try_get("why")?,
        rollout: row.try_get("rollout")?,
        trouble: row.try_get("trouble")?,
        brought: row.try_get("brought")?,
        had: row.try_get("had")?,
        replaced: row.try_get("replaced")?,
        revision: row.try_get("revision")?,
    })
}

fn progress(row: &AnyRow) -> Result<HostProgress, StoreError> {
    let Some(state) = row.try_get::<Option<&str>, _>("progress")? else { return Ok(None) };
    let corrupt = || StoreError::corrupt("state of a host", state);
    Ok(Some((HostState::of_word(state).ok_or_else(corrupt)?, row.try_get("progress_ms")?)))
}

fn ports(text: &str) -> Result<Vec<defender::Port>, StoreError> {
    let value = json("ports of a machine", text)?;
    defender::Policy::kept_ports(&value)
        .map_err(|why| StoreError::corrupt("ports of a machine", why))
}
