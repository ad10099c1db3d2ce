//! Requests that follow each other: extensions, and what replaces a request.

use sqlx::{Row as _, query};

use super::{Request, Store, StoreError, Tx, requests};

impl Store {
    /// The first of the requests that this one follows: itself, if it follows none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn first_of(&self, request: &str) -> Result<String, StoreError> {
        let row = query("SELECT first FROM chain WHERE request = $1").bind(request);
        let row = row.fetch_optional(self.pool()).await?;
        row.map_or_else(|| Ok(request.to_owned()), |row| Ok(row.try_get("first")?))
    }

    /// The request that this one extends; `None`: it is no extension.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn extended_by(&self, request: &str) -> Result<Option<String>, StoreError> {
        let row = query("SELECT extends FROM chain WHERE request = $1 AND extends <> ''");
        let row = row.bind(request).fetch_optional(self.pool()).await?;
        row.map(|row| Ok(row.try_get("extends")?)).transpose()
    }

    /// A request and all that follow it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn chain(&self, first: &str) -> Result<Vec<Request>, StoreError> {
        let rows = query(CHAIN).bind(first).fetch_all(self.pool()).await?;
        rows.iter().map(requests::request).collect()
    }
}

const CHAIN: &str = "SELECT * FROM request WHERE id = $1 \
                     OR id IN (SELECT request FROM chain WHERE first = $1)";

/// As [`Store::chain`], as this transaction sees them.
///
/// # Errors
/// Those of the database.
pub async fn of(tx: &mut Tx, first: &str) -> Result<Vec<Request>, StoreError> {
    let rows = query(CHAIN).bind(first).fetch_all(&mut **tx).await?;
    rows.iter().map(requests::request).collect()
}

/// Records that a request follows another one: `extends` names what it extends, or is empty.
///
/// # Errors
/// Those of the database.
pub async fn follow(
    tx: &mut Tx,
    request: &str,
    first: &str,
    extends: &str,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO chain (request, first, extends) VALUES ($1, $2, $3)";
    query(statement).bind(request).bind(first).bind(extends).execute(&mut **tx).await?;
    Ok(())
}

/// Records that a request replaces another one.
///
/// # Errors
/// Those of the database.
pub async fn replace(tx: &mut Tx, request: &str, old: &str) -> Result<(), StoreError> {
    let row = query("SELECT first FROM chain WHERE request = $1").bind(old);
    let row = row.fetch_optional(&mut **tx).await?;
    let first = row.map_or_else(|| Ok(old.to_owned()), |row| row.try_get("first"))?;
    follow(tx, request, &first, "").await
}

/// Ids of the requests that this one replaces, the newest first: the one that it names, the one that that one
/// names, and so on.
///
/// # Errors
/// Those of the database.
pub async fn replaced(tx: &mut Tx, request: &Request) -> Result<Vec<String>, StoreError> {
    let mut ids = Vec::new();
    let mut next = request.proposal.replaces.clone();
    while let Some(id) = next {
        let row = query("SELECT * FROM request WHERE id = $1").bind(&id);
        let old =
            row.fetch_optional(&mut **tx).await?.as_ref().map(requests::request).transpose()?;
        next = old.and_then(|old| old.proposal.replaces);
        ids.push(id);
    }
    Ok(ids)
}
