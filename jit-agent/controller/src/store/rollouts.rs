//! Policies on their way to hosts, in waves: what was decided, signed and answered.

use jit_proto::v1;
use prost::Message as _;
use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
    hosts::IDS,
};
use crate::model::rollout::{HostState, RolloutState, Wave};

/// How the justification of a policy begins that says what policies of Defender want.
pub(crate) const OF_DEFENDER: &str = "Defender: ";

/// A policy as somebody wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A ULID.
    pub id: String,
    /// TOML, as `jitctl policy push` reads it.
    pub text: String,
    /// Who wrote it: a subject.
    pub author: String,
    /// Why, in words.
    pub justification: String,
    /// Milliseconds since the Unix epoch.
    pub saved_ms: i64,
}

/// A policy on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// A ULID.
    pub id: String,
    /// Id of the policy.
    pub policy: String,
    /// Which hosts come when.
    pub waves: Vec<Wave>,
    /// Its state.
    pub state: RolloutState,
    /// Why it is in this state, in words; empty: there is no more to say.
    pub why: String,
    /// The wave that it is at, from 0.
    pub wave: i64,
    /// Since when, milliseconds since the Unix epoch.
    pub wave_since_ms: i64,
    /// How long a host waits for the confirmation, seconds.
    pub confirm_s: i64,
    /// Time between the end of a wave and the next one, milliseconds.
    pub pause_ms: i64,
    /// Who began it: a subject.
    pub created_by: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

/// One host's part of a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutHost {
    /// The rollout.
    pub rollout: String,
    /// Id of the host.
    pub host: String,
    /// Its wave, from 0.
    pub wave: i64,
    /// How far it is.
    pub state: HostState,
    /// The host's word of its answer; empty: none.
    pub word: String,
    /// A sentence about it.
    pub detail: String,
    /// The version that it gets; 0: that is not decided.
    pub version: i64,
    /// The encoded `jit.v1.Policy` that is signed; empty: it is not made.
    pub payload: Vec<u8>,
    /// With its signatures; `None`: it is not signed.
    pub envelope: Option<v1::Envelope>,
    /// What it changes there, a line each; empty: nothing, or it is not known.
    pub changes: String,
    /// When it changed last, milliseconds since the Unix epoch.
    pub changed_ms: i64,
}

impl Store {
    /// Policies below this id, the newest first; at most `most`. Empty: from the newest on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn policies(&self, before: &str, most: u32) -> Result<Vec<Policy>, StoreError> {
        let rows = query("SELECT * FROM policy WHERE id < $1 ORDER BY id DESC LIMIT $2");
        let rows = rows.bind(or_newest(before)).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(policy).collect()
    }

    /// The policy with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn policy(&self, id: &str) -> Result<Option<Policy>, StoreError> {
        let row = query("SELECT * FROM policy WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(policy).transpose()
    }

    /// Rollouts below this id, the newest first; at most `most`. Empty: from the newest on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rollouts(&self, before: &str, most: u32) -> Result<Vec<Rollout>, StoreError> {
        let rows = query("SELECT * FROM rollout WHERE id < $1 ORDER BY id DESC LIMIT $2");
        let rows = rows.bind(or_newest(before)).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(rollout).collect()
    }

    /// The waves of each rollout of these policies, with the id of its policy.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn waves_of_policies(
        &self,
        policies: &[String],
    ) -> Result<Vec<(String, Vec<Wave>)>, StoreError> {
        let mut found = Vec::new();
        for some in policies.chunks(IDS) {
            let places: Vec<_> = (1..=some.len()).map(|number| format!("${number}")).collect();
            let places = places.join(", ");
            // Only numbers of places are put in.
            let rows = AssertSqlSafe(format!(
                "SELECT policy, waves_json FROM rollout WHERE policy IN ({places}) ORDER BY id"
            ));
            let rows = some.iter().fold(query(rows), |rows, id| rows.bind(id.as_str()));
            for row in rows.fetch_all(self.pool()).await? {
                let waves = json("waves of a rollout", row.try_get("waves_json")?)?;
                found.push((row.try_get("policy")?, waves));
            }
        }
        Ok(found)
    }

    /// Rollouts that go on, the oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn running_rollouts(&self) -> Result<Vec<Rollout>, StoreError> {
        let rows = query("SELECT * FROM rollout WHERE state = $1 ORDER BY id LIMIT 100");
        let rows = rows.bind(RolloutState::Running.word()).fetch_all(self.pool()).await?;
        rows.iter().map(rollout).collect()
    }

    /// When an administrator could not begin a rollout because another went on, milliseconds since
    /// the Unix epoch; 0: none waits.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rollout_waiting_ms(&self) -> Result<i64, StoreError> {
        let row = query("SELECT waiting_ms FROM rollout_turn WHERE id = 1");
        let row = row.fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("waiting_ms")).transpose()?.unwrap_or(0))
    }

    /// Ids of rollouts that do not go on, with a host that has not answered whether it keeps the
    /// policy.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unsettled_rollouts(&self) -> Result<Vec<String>, StoreError> {
        let rows = "SELECT DISTINCT rollout.id AS id FROM rollout \
                    JOIN rollout_host ON rollout_host.rollout = rollout.id \
                    AND rollout_host.wave = rollout.wave AND rollout_host.state = $1 \
                    WHERE rollout.state <> $2";
        let rows = query(rows).bind(HostState::Pushed.word()).bind(RolloutState::Running.word());
        let rows = rows.fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
    }

    /// The rollout with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rollout(&self, id: &str) -> Result<Option<Rollout>, StoreError> {
        let row = query("SELECT * FROM rollout WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(rollout).transpose()
    }

    /// Hosts of a rollout by id: those after `after`, at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rollout_hosts(
        &self,
        rollout: &str,
        after: &str,
        most: u32,
    ) -> Result<Vec<RolloutHost>, StoreError> {
        let rows = "SELECT * FROM rollout_host WHERE rollout = $1 AND host > $2 \
                    ORDER BY host LIMIT $3";
        let rows = query(rows).bind(rollout).bind(after).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(host).collect()
    }

    /// Hosts because of which a rollout has halted, by id; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rollout_hosts_bad(
        &self,
        rollout: &str,
        most: u32,
    ) -> Result<Vec<RolloutHost>, StoreError> {
        let rows = "SELECT * FROM rollout_host WHERE rollout = $1 AND state IN ($2, $3, $4) \
                    ORDER BY host LIMIT $5";
        let rows = query(rows)
            .bind(rollout)
            .bind(HostState::Degraded.word())
            .bind(HostState::Refused.word())
            .bind(HostState::Silent.word())
            .bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(host).collect()
    }

    /// The rollout whose policy hosts have or get: the newest that nobody has ended, of those that
    /// are not to a few named hosts alone (`hosts:`), as Defender's are.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rollout_in_force(&self) -> Result<Option<Rollout>, StoreError> {
        // A list of one text: another one would begin after `","`, which no text has in it
        // unescaped.
        let row = "SELECT * FROM rollout WHERE state <> $1 AND NOT (waves_json LIKE '[\"hosts:%' \
                   AND waves_json NOT LIKE '%\",\"%') ORDER BY id DESC LIMIT 1";
        let row = query(row).bind(RolloutState::Aborted.word()).fetch_optional(self.pool()).await?;
        row.as_ref().map(rollout).transpose()
    }

    /// Hosts of a wave.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn wave_hosts(
        &self,
        rollout: &str,
        wave: i64,
    ) -> Result<Vec<RolloutHost>, StoreError> {
        let rows = "SELECT * FROM rollout_host WHERE rollout = $1 AND wave = $2 ORDER BY host";
        let rows = query(rows).bind(rollout).bind(wave).fetch_all(self.pool()).await?;
        rows.iter().map(host).collect()
    }

    /// Number of a rollout's hosts by wave and state.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rollout_counts(
        &self,
        rollout: &str,
    ) -> Result<Vec<(i64, HostState, i64)>, StoreError> {
        let rows = "SELECT wave, state, COUNT(*) AS count FROM rollout_host WHERE rollout = $1 \
                    GROUP BY wave, state ORDER BY wave, state";
        let rows = query(rows).bind(rollout).fetch_all(self.pool()).await?;
        rows.iter()
            .map(|row| Ok((row.try_get("wave")?, host_state(row)?, row.try_get("count")?)))
            .collect()
    }
}

/// Adds a policy.
///
/// # Errors
/// Those of the database.
pub async fn insert_policy(tx: &mut Tx, new: &Policy) -> Result<(), StoreError> {
    let statement = "INSERT INTO policy (id, text, author, justification, saved_ms) \
                     VALUES ($1, $2, $3, $4, $5)";
    query(statement)
        .bind(new.id.as_str())
        .bind(new.text.as_str())
        .bind(new.author.as_str())
        .bind(new.justification.as_str())
        .bind(new.saved_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Adds a rollout with the hosts of each wave.
///
/// # Errors
/// Those of the database.
pub async fn insert(tx: &mut Tx, new: &Rollout, waves: &[Vec<String>]) -> Result<(), StoreError> {
    let statement = "INSERT INTO rollout (id, policy, waves_json, state, why, wave, wave_since_ms, \
                     confirm_s, pause_ms, created_by, created_ms) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    query(statement)
        .bind(new.id.as_str())
        .bind(new.policy.as_str())
        .bind(to_json(&new.waves))
        .bind(new.state.word())
        .bind(new.why.as_str())
        .bind(new.wave)
        .bind(new.wave_since_ms)
        .bind(new.confirm_s)
        .bind(new.pause_ms)
        .bind(new.created_by.as_str())
        .bind(new.created_ms)
        .execute(&mut **tx)
        .await?;
    let statement = "INSERT INTO rollout_host (rollout, host, wave, state, word, detail, version, \
                     payload, envelope, changes, changed_ms) \
                     VALUES ($1, $2, $3, $4, '', '', 0, $5, $5, '', $6)";
    for (wave, hosts) in (0_i64..).zip(waves) {
        for host in hosts {
            query(statement)
                .bind(new.id.as_str())
                .bind(host.as_str())
                .bind(wave)
                .bind(HostState::Waiting.word())
                .bind(Vec::<u8>::new())
                .bind(new.created_ms)
                .execute(&mut **tx)
                .await?;
        }
    }
    Ok(())
}

/// Takes the turn: nobody else begins a rollout, or goes on with one, before this transaction ends.
/// Returns what [`Store::rollout_waiting_ms`] does, and the rollout that goes on.
///
/// # Errors
/// Those of the database.
pub async fn take_turn(tx: &mut Tx) -> Result<(i64, Option<String>), StoreError> {
    // The change of the row locks it on Postgres; on SQLite the transaction is alone anyway.
    let row = "INSERT INTO rollout_turn (id, waiting_ms) VALUES (1, 0) ON CONFLICT (id) \
               DO UPDATE SET waiting_ms = rollout_turn.waiting_ms RETURNING waiting_ms";
    let waiting_ms = query(row).fetch_one(&mut **tx).await?.try_get("waiting_ms")?;
    let row = query("SELECT id FROM rollout WHERE state = $1 ORDER BY id LIMIT 1");
    let row = row.bind(RolloutState::Running.word()).fetch_optional(&mut **tx).await?;
    Ok((waiting_ms, row.map(|row| row.try_get("id")).transpose()?))
}

/// Keeps since when an administrator waits for the turn that was taken; 0: none waits.
///
/// # Errors
/// Those of the database.
pub async fn set_waiting(tx: &mut Tx, waiting_ms: i64) -> Result<(), StoreError> {
    let update = query("UPDATE rollout_turn SET waiting_ms = $1 WHERE id = 1").bind(waiting_ms);
    update.execute(&mut **tx).await?;
    Ok(())
}

/// Reads a rollout for a change: nobody else changes it before this transaction ends.
///
/// # Errors
/// Those of the database.
pub async fn lock(tx: &mut Tx, id: &str) -> Result<Option<Rollout>, StoreError> {
    let row = query("UPDATE rollout SET state = state WHERE id = $1 RETURNING *").bind(id);
    row.fetch_optional(&mut **tx).await?.as_ref().map(rollout).transpose()
}

/// Writes what can change of a rollout that was read by [`lock`].
///
/// # Errors
/// Those of the database.
pub async fn update(tx: &mut Tx, changed: &Rollout) -> Result<(), StoreError> {
    let statement = "UPDATE rollout SET state = $2, why = $3, wave = $4, wave_since_ms = $5 \
                     WHERE id = $1";
    query(statement)
        .bind(changed.id.as_str())
        .bind(changed.state.word())
        .bind(changed.why.as_str())
        .bind(changed.wave)
        .bind(changed.wave_since_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Writes what can change of a host's part.
///
/// # Errors
/// Those of the database.
pub async fn update_host(tx: &mut Tx, changed: &RolloutHost) -> Result<(), StoreError> {
    let envelope = changed.envelope.as_ref().map(v1::Envelope::encode_to_vec).unwrap_or_default();
    let statement = "UPDATE rollout_host SET state = $3, word = $4, detail = $5, version = $6, \
                     payload = $7, envelope = $8, changes = $9, changed_ms = $10 \
                     WHERE rollout = $1 AND host = $2";
    query(statement)
        .bind(changed.rollout.as_str())
        .bind(changed.host.as_str())
        .bind(changed.state.word())
        .bind(changed.word.as_str())
        .bind(changed.detail.as_str())
        .bind(changed.version)
        .bind(changed.payload.clone())
        .bind(envelope)
        .bind(changed.changes.as_str())
        .bind(changed.changed_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Hosts of a rollout that are in one of the states `from` are in `to` from now on, with nothing
/// signed.
///
/// # Errors
/// Those of the database.
pub async fn move_hosts(
    tx: &mut Tx,
    rollout: &str,
    from: &[HostState],
    to: HostState,
    now_ms: i64,
) -> Result<u64, StoreError> {
    let update = "UPDATE rollout_host SET state = $3, version = 0, payload = $4, envelope = $4, \
                  changed_ms = $5 WHERE rollout = $1 AND state = $2";
    let mut moved = 0;
    for state in from {
        let update = query(update).bind(rollout).bind(state.word()).bind(to.word());
        let update = update.bind(Vec::<u8>::new()).bind(now_ms);
        moved += update.execute(&mut **tx).await?.rows_affected();
    }
    Ok(moved)
}

/// Leaves hosts that a rollout still had to bring its policy to out of it, if a newer one has
/// brought another policy there, or if the policy is Defender's and its host waits for another one.
/// Returns whether it has nothing more to bring because of that. The rollout was locked, and the
/// turn taken.
///
/// # Errors
/// Those of the database.
pub async fn leave_overtaken(tx: &mut Tx, rollout: &str, now_ms: i64) -> Result<bool, StoreError> {
    let update = "UPDATE rollout_host SET state = 'skipped', version = 0, payload = $2, \
                  envelope = $2, changed_ms = $3 WHERE rollout = $1 \
                  AND state IN ('degraded', 'refused', 'signing', 'silent', 'waiting') AND (\
                  host IN (SELECT newer.host FROM rollout_host AS newer WHERE newer.rollout > $1 \
                  AND newer.state IN ('applied', 'degraded', 'pushed', 'silent')) \
                  OR (host NOT IN (SELECT defender_host.host FROM defender_host \
                  WHERE defender_host.rollout = $1) AND EXISTS (SELECT 1 FROM rollout \
                  JOIN policy ON policy.id = rollout.policy WHERE rollout.id = $1 \
                  AND policy.justification LIKE $4)))";
    let update = query(update).bind(rollout).bind(Vec::<u8>::new()).bind(now_ms);
    update.bind(format!("{OF_DEFENDER}%")).execute(&mut **tx).await?;
    let row = "SELECT COALESCE(SUM(CASE WHEN state = 'skipped' THEN 1 ELSE 0 END), 0) AS left_out, \
               COALESCE(SUM(CASE WHEN state IN ('applied', 'skipped') THEN 0 ELSE 1 END), 0) AS open \
               FROM rollout_host WHERE rollout = $1";
    let row = query(row).bind(rollout).fetch_one(&mut **tx).await?;
    let (left_out, open): (i64, i64) = (row.try_get("left_out")?, row.try_get("open")?);
    Ok(left_out > 0 && open == 0)
}

const fn or_newest(before: &str) -> &str {
    if before.is_empty() { "~" } else { before }
}

fn policy(row: &AnyRow) -> Result<Policy, StoreError> {
    Ok(Policy {
        id: row.try_get("id")?,
        text: row.try_get("text")?,
        author: row.try_get("author")?,
        justification: row.try_get("justification")?,
        saved_ms: row.try_get("saved_ms")?,
    })
}

fn rollout(row: &AnyRow) -> Result<Rollout, StoreError> {
    let state: &str = row.try_get("state")?;
    Ok(Rollout {
        id: row.try_get("id")?,
        policy: row.try_get("policy")?,
        waves: json("waves of a rollout", row.try_get("waves_json")?)?,
        state: RolloutState::of_word(state)
            .ok_or_else(|| StoreError::corrupt("state of a rollout", state))?,
        why: row.try_get("why")?,
        wave: row.try_get("wave")?,
        wave_since_ms: row.try_get("wave_since_ms")?,
        confirm_s: row.try_get("confirm_s")?,
        pause_ms: row.try_get("pause_ms")?,
        created_by: row.try_get("created_by")?,
        created_ms: row.try_get("created_ms")?,
    })
}

fn host_state(row: &AnyRow) -> Result<HostState, StoreError> {
    let state: &str = row.try_get("state")?;
    HostState::of_word(state).ok_or_else(|| StoreError::corrupt("state of a host", state))
}

fn host(row: &AnyRow) -> Result<RolloutHost, StoreError> {
    let envelope: Vec<u8> = row.try_get("envelope")?;
    let decode = |bytes: Vec<u8>| {
        v1::Envelope::decode(bytes.as_slice()).map_err(|why| StoreError::corrupt("envelope", why))
    };
    Ok(RolloutHost {
        rollout: row.try_get("rollout")?,
        host: row.try_get("host")?,
        wave: row.try_get("wave")?,
        state: host_state(row)?,
        word: row.try_get("word")?,
        detail: row.try_get("detail")?,
        version: row.try_get("version")?,
        payload: row.try_get("payload")?,
        envelope: if envelope.is_empty() { None } else { Some(decode(envelope)?) },
        changes: row.try_get("changes")?,
        changed_ms: row.try_get("changed_ms")?,
    })
}
