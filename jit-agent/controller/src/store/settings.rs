//! Single values.

use sqlx::{Row as _, query};

use super::{Store, StoreError, Tx};

impl Store {
    /// The value of this name; `None`: it was never set.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = query("SELECT value FROM setting WHERE name = $1").bind(name);
        let row = row.fetch_optional(self.pool()).await?;
        Ok(row.map(|row| row.try_get("value")).transpose()?)
    }
}

/// Sets a value.
///
/// # Errors
/// Those of the database.
pub async fn set(tx: &mut Tx, name: &str, value: &str) -> Result<(), StoreError> {
    let statement = "INSERT INTO setting (name, value) VALUES ($1, $2) \
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    query(statement).bind(name).bind(value).execute(&mut **tx).await?;
    Ok(())
}

/// Sets a value that is not there yet; the one that is there stays.
///
/// # Errors
/// Those of the database.
pub async fn set_new(tx: &mut Tx, name: &str, value: &str) -> Result<(), StoreError> {
    let statement = "INSERT INTO setting (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    query(statement).bind(name).bind(value).execute(&mut **tx).await?;
    Ok(())
}
