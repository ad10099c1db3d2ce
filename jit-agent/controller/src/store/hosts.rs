//! Hosts: what administrators say of them, and what their agents answered last.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
};
use crate::model::{Host, host::Observed};

/// Ids of one question to the database.
pub(super) const IDS: usize = 500;

/// A host, with what its agent answered last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredHost {
    /// As administrators describe it.
    pub host: Host,
    /// As its agent answered.
    pub observed: Observed,
}

/// Hosts by how much somebody must look at them.
#[derive(Clone, Debug, Default)]
pub struct ByNeed<'w> {
    /// Only with this in their ids, in small or capital letters; empty: all.
    pub text: &'w str,
    /// Only in this condition; empty: in each.
    pub condition: &'w str,
    /// Place and id of the one after which they come.
    pub after: (i64, &'w str),
    /// At most this number.
    pub most: u32,
}

/// A host in the order of [`Store::hosts_by_need`].
#[derive(Clone, Debug)]
pub struct Needy {
    /// Its place: 0 comes first, 5 needs nobody.
    pub place: i64,
    /// The host.
    pub known: StoredHost,
}

impl Store {
    /// Hosts by id: those after `after`, at most `most` of them. With a condition only such ones.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts(
        &self,
        after: &str,
        most: u32,
        condition: Option<&str>,
    ) -> Result<Vec<StoredHost>, StoreError> {
        let statement = "SELECT * FROM host WHERE id > $1 AND ($2 = '' OR condition = $2) \
                         ORDER BY id LIMIT $3";
        let rows = query(statement)
            .bind(after)
            .bind(condition.unwrap_or_default())
            .bind(i64::from(most))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(host).collect()
    }

    /// Hosts by id with a text in their id or labels, those after `after`, at most `most` of them.
    /// `env=pr` is the beginning of a label's value. Upper and lower case are the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts_named(
        &self,
        text: &str,
        after: &str,
        most: u32,
    ) -> Result<Vec<StoredHost>, StoreError> {
        let (id, labels) = patterns(text);
        let statement = "SELECT * FROM host WHERE id > $1 AND (LOWER(id) LIKE $2 ESCAPE '\\' \
                         OR LOWER(labels_json) LIKE $3 ESCAPE '\\') ORDER BY id LIMIT $4";
        let rows = query(statement).bind(after).bind(id).bind(labels).bind(i64::from(most));
        rows.fetch_all(self.pool()).await?.iter().map(host).collect()
    }

    /// Hosts in the order in which somebody must look at them: alarms, not in force, silent, with a
    /// problem, never heard of, in force; then by id. Each with its place in that order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts_by_need(&self, wanted: &ByNeed<'_>) -> Result<Vec<Needy>, StoreError> {
        // In a text of JSON a quote has a backslash before it: only the field itself looks like
        // this.
        let rows = "SELECT * FROM (SELECT host.*, CAST(CASE \
                    WHEN observed_json LIKE '%\"alarms\":[{%' THEN 0 \
                    WHEN condition = 'not_enforcing' THEN 1 WHEN condition = 'unreachable' THEN 2 \
                    WHEN condition = 'degraded' THEN 3 WHEN condition = 'unknown' THEN 4 \
                    ELSE 5 END AS BIGINT) AS place FROM host \
                    WHERE LOWER(id) LIKE $1 ESCAPE '\\' \
                    AND ($2 = '' OR condition = $2)) AS placed \
                    WHERE place > $3 OR (place = $3 AND id > $4) ORDER BY place, id LIMIT $5";
        let (place, id) = wanted.after;
        let rows = query(rows)
            .bind(patterns(wanted.text).0)
            .bind(wanted.condition)
            .bind(place)
            .bind(id)
            .bind(i64::from(wanted.most));
        let rows = rows.fetch_all(self.pool()).await?;
        rows.iter()
            .map(|row| Ok(Needy { place: row.try_get("place")?, known: host(row)? }))
            .collect()
    }

    /// Number of hosts in each condition.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn host_conditions(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let rows = query("SELECT condition, COUNT(*) AS count FROM host GROUP BY condition");
        let rows = rows.fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((row.try_get("condition")?, row.try_get("count")?))).collect()
    }

    /// Number of hosts on which nothing is opened, because of an alarm.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts_held(&self) -> Result<i64, StoreError> {
        // As in `hosts_by_need`: no text of JSON looks like this.
        let held = "SELECT COUNT(*) AS count FROM host \
                    WHERE observed_json LIKE '%\"alarms\":[{%\"holds\":true%'";
        Ok(query(held).fetch_one(self.pool()).await?.try_get("count")?)
    }

    /// Where the agents of all hosts are: id, address and server name, without labels and groups.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn addresses(&self) -> Result<BTreeMap<String, Host>, StoreError> {
        let rows =
            query("SELECT id, address, server_name FROM host").fetch_all(self.pool()).await?;
        rows.iter()
            .map(|row| {
                let host = Host {
                    id: row.try_get("id")?,
                    address: row.try_get("address")?,
                    server_name: row.try_get("server_name")?,
                    ..Host::default()
                };
                Ok((host.id.clone(), host))
            })
            .collect()
    }

    /// All hosts as administrators describe them, by id, without what their agents answered.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn host_descriptions(&self) -> Result<Vec<Host>, StoreError> {
        let rows =
            "SELECT id, address, server_name, labels_json, groups_json FROM host ORDER BY id";
        query(rows).fetch_all(self.pool()).await?.iter().map(description).collect()
    }

    /// These hosts, if they are there, and of the others one of each that differ in labels or groups.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn host_kinds(&self, named: &BTreeSet<String>) -> Result<Vec<Host>, StoreError> {
        if named.len() > IDS {
            return self.host_descriptions().await;
        }
        let places = (1..=named.len()).map(|number| format!(", ${number}")).collect::<String>();
        // A list of none is none to PostgreSQL, and no host has an empty id.
        let places = format!("''{places}");
        let columns = "address, server_name, labels_json, groups_json";
        // Only numbers of places are put in.
        let rows = AssertSqlSafe(format!(
            "SELECT id, {columns} FROM host WHERE id IN ({places}) \
             UNION ALL SELECT MIN(id) AS id, '' AS address, '' AS server_name, labels_json, groups_json \
             FROM host WHERE id NOT IN ({places}) GROUP BY labels_json, groups_json ORDER BY id"
        ));
        let rows = named.iter().fold(query(rows), |rows, id| rows.bind(id.as_str()));
        rows.fetch_all(self.pool()).await?.iter().map(description).collect()
    }

    /// The host with this id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn host(&self, id: &str) -> Result<Option<StoredHost>, StoreError> {
        let row = query("SELECT * FROM host WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(host).transpose()
    }

    /// The hosts with these ids that there are, by id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hosts_by_id(&self, ids: &[String]) -> Result<Vec<StoredHost>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for some in ids.chunks(IDS) {
            let places: Vec<_> = (1..=some.len()).map(|number| format!("${number}")).collect();
            let places = places.join(", ");
            // Only numbers of places are put in.
            let rows =
                AssertSqlSafe(format!("SELECT * FROM host WHERE id IN ({places}) ORDER BY id"));
            let rows = some.iter().fold(query(rows), |rows, id| rows.bind(id.as_str()));
            for row in rows.fetch_all(self.pool()).await? {
                found.push(host(&row)?);
            }
        }
        Ok(found)
    }

    /// Number of hosts.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn host_count(&self) -> Result<i64, StoreError> {
        let row = query("SELECT COUNT(*) AS count FROM host").fetch_one(self.pool()).await?;
        Ok(row.try_get("count")?)
    }

    /// Writes what a host's agent answered. A host that was removed meanwhile stays removed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn observe(&self, id: &str, observed: &Observed) -> Result<(), StoreError> {
        let update = "UPDATE host SET condition = $2, observed_json = $3 WHERE id = $1";
        let update = query(update).bind(id).bind(observed.condition.word()).bind(to_json(observed));
        self.change(update).await?;
        Ok(())
    }
}

/// Reads what a host's agent answered last, for a change: nobody else changes it before this transaction
/// ends. `None`: there is no such host.
///
/// # Errors
/// Those of the database.
pub async fn lock_observed(tx: &mut Tx, id: &str) -> Result<Option<Observed>, StoreError> {
    // The change of the row locks it on Postgres; on SQLite the transaction is alone anyway.
    let row = "UPDATE host SET condition = condition WHERE id = $1 RETURNING observed_json";
    let row = query(row).bind(id).fetch_optional(&mut **tx).await?;
    row.map(|row| json("answer of a host", row.try_get("observed_json")?)).transpose()
}

/// Writes what was read by [`lock_observed`] and changed.
///
/// # Errors
/// Those of the database.
pub async fn set_observed(tx: &mut Tx, id: &str, observed: &Observed) -> Result<(), StoreError> {
    let update = "UPDATE host SET condition = $2, observed_json = $3 WHERE id = $1";
    let update = query(update).bind(id).bind(observed.condition.word()).bind(to_json(observed));
    update.execute(&mut **tx).await?;
    Ok(())
}

/// A host by its id in any case of letters: its id and its labels. `None`: there is no such one.
///
/// # Errors
/// Those of the database.
pub async fn in_any_case(
    tx: &mut Tx,
    id: &str,
) -> Result<Option<(String, BTreeMap<String, String>)>, StoreError> {
    let rows = query("SELECT id, labels_json FROM host WHERE LOWER(id) = $1 ORDER BY id");
    let rows = rows.bind(id.to_ascii_lowercase()).fetch_all(&mut **tx).await?;
    let is_exact = |row: &&AnyRow| row.try_get::<&str, _>("id").is_ok_and(|one| one == id);
    let row = rows.iter().find(is_exact).or(rows.first());
    let host =
        |row: &AnyRow| Ok((row.try_get("id")?, json("labels", row.try_get("labels_json")?)?));
    row.map(host).transpose()
}

/// Makes a host, or changes what administrators say of it.
///
/// # Errors
/// Those of the database.
pub async fn put(tx: &mut Tx, host: &Host) -> Result<(), StoreError> {
    let observed = Observed::default();
    let statement = "INSERT INTO host (id, address, server_name, labels_json, groups_json, condition, \
                     observed_json) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO UPDATE SET \
                     address = excluded.address, server_name = excluded.server_name, \
                     labels_json = excluded.labels_json, groups_json = excluded.groups_json";
    query(statement)
        .bind(host.id.as_str())
        .bind(host.address.as_str())
        .bind(host.server_name.as_str())
        .bind(to_json(&host.labels))
        .bind(to_json(&host.groups))
        .bind(observed.condition.word())
        .bind(to_json(&observed))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Removes a host; returns whether there was such a one.
///
/// # Errors
/// Those of the database.
pub async fn remove(tx: &mut Tx, id: &str) -> Result<bool, StoreError> {
    let done = query("DELETE FROM host WHERE id = $1").bind(id).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Patterns of SQL's LIKE that find a text in an id, and in labels as they are stored.
fn patterns(text: &str) -> (String, String) {
    let escaped = |text: &str| {
        let mut escaped = String::with_capacity(text.len());
        for letter in text.chars().flat_map(char::to_lowercase) {
            if matches!(letter, '%' | '_' | '\\') {
                escaped.push('\\');
            }
            escaped.push(letter);
        }
        escaped
    };
    // As it stands in JSON, without the quotation marks around it.
    let quoted = |text: &str| {
        let json = to_json(&text);
        json.get(1..json.len().saturating_sub(1)).unwrap_or_default().to_owned()
    };
    let labels = match text.split_once('=') {
        Some((key, value)) => format!("\"{}\":\"{}", quoted(key.trim()), quoted(value.trim())),
        None => quoted(text),
    };
    (format!("%{}%", escaped(text)), format!("%{}%", escaped(&labels)))
}

fn description(row: &AnyRow) -> Result<Host, StoreError> {
    Ok(Host {
        id: row.try_get("id")?,
        address: row.try_get("address")?,
        server_name: row.try_get("server_name")?,
        labels: json("labels of a host", row.try_get("labels_json")?)?,
        groups: json("groups of a host", row.try_get("groups_json")?)?,
    })
}

fn host(row: &AnyRow) -> Result<StoredHost, StoreError> {
    Ok(StoredHost {
        host: description(row)?,
        observed: json("answer of a host", row.try_get("observed_json")?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::patterns;

    #[test]
    fn what_is_typed_is_looked_for_as_it_is() {
        let of = |id: &str, labels: &str| (id.to_owned(), labels.to_owned());
        assert_eq!(patterns("WEB"), of("%web%", "%web%"));
        assert_eq!(patterns("env=Prod"), of("%env=prod%", "%\"env\":\"prod%"));
        assert_eq!(patterns("50%_\\"), of("%50\\%\\_\\\\%", "%50\\%\\_\\\\\\\\%"));
    }
}
