//! Versions of the rules. The highest is in force; a rollback saves an old text again.

use sqlx::{Row as _, any::AnyRow, query};

use super::{Store, StoreError, Tx};

/// One version of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesVersion {
    /// Its number; the first is 1.
    pub version: i64,
    /// Cedar.
    pub text: String,
    /// Who saved it.
    pub author: String,
    /// Why, in words.
    pub note: String,
    /// Milliseconds since the Unix epoch.
    pub saved_ms: i64,
}

impl Store {
    /// The rules in force.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rules_in_force(&self) -> Result<Option<RulesVersion>, StoreError> {
        let row = query("SELECT * FROM rules ORDER BY version DESC LIMIT 1");
        row.fetch_optional(self.pool()).await?.as_ref().map(version).transpose()
    }

    /// One version.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rules_version(&self, number: i64) -> Result<Option<RulesVersion>, StoreError> {
        let row = query("SELECT * FROM rules WHERE version = $1").bind(number);
        row.fetch_optional(self.pool()).await?.as_ref().map(version).transpose()
    }

    /// Versions below `before`, the newest first; at most `most`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rules_history(
        &self,
        before: i64,
        most: u32,
    ) -> Result<Vec<RulesVersion>, StoreError> {
        let rows = query("SELECT * FROM rules WHERE version < $1 ORDER BY version DESC LIMIT $2");
        let rows = rows.bind(before).bind(i64::from(most)).fetch_all(self.pool()).await?;
        rows.iter().map(version).collect()
    }
}

/// Saves a version.
///
/// # Errors
/// [`StoreError::is_duplicate`]: somebody else saved one with this number meanwhile.
pub async fn save(tx: &mut Tx, version: &RulesVersion) -> Result<(), StoreError> {
    let statement =
        "INSERT INTO rules (version, text, author, note, saved_ms) VALUES ($1, $2, $3, $4, $5)";
    query(statement)
        .bind(version.version)
        .bind(version.text.as_str())
        .bind(version.author.as_str())
        .bind(version.note.as_str())
        .bind(version.saved_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn version(row: &AnyRow) -> Result<RulesVersion, StoreError> {
    Ok(RulesVersion {
        version: row.try_get("version")?,
        text: row.try_get("text")?,
        author: row.try_get("author")?,
        note: row.try_get("note")?,
        saved_ms: row.try_get("saved_ms")?,
    })
}
