//! Grants of requests: the payload, fixed before it is signed, and the envelope.

use jit_proto::v1;
use prost::Message as _;
use sqlx::{Row as _, any::AnyRow, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
};
use crate::model::GrantPart;

/// A grant of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredGrant {
    /// The request.
    pub request: String,
    /// Its number among the request's grants, from 0.
    pub number: i64,
    /// What is signed.
    pub part: GrantPart,
    /// Good signatures by distinct keys that its hosts ask for.
    pub signatures_needed: u32,
    /// With its signatures so far; `None`: nobody has signed.
    pub envelope: Option<v1::Envelope>,
    /// When all signatures were there, milliseconds since the Unix epoch; 0: they are not.
    pub signed_ms: i64,
}

impl Store {
    /// The grants of a request, in order.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn grants_of(&self, request: &str) -> Result<Vec<StoredGrant>, StoreError> {
        let rows =
            query("SELECT * FROM grant_part WHERE request = $1 ORDER BY number").bind(request);
        rows.fetch_all(self.pool()).await?.iter().map(grant).collect()
    }

    /// One grant.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn grant(&self, id: &str) -> Result<Option<StoredGrant>, StoreError> {
        let row = query("SELECT * FROM grant_part WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(grant).transpose()
    }

    /// Grants that the controller's own key must still sign, and whose end has not come.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unsigned_grants(&self, now_ms: i64) -> Result<Vec<StoredGrant>, StoreError> {
        let rows = "SELECT grant_part.* FROM grant_part JOIN request ON request.id = request \
                    WHERE signed_ms = 0 AND state = 'approved' AND not_after_ms > $1 \
                    ORDER BY grant_part.id LIMIT 500";
        query(rows).bind(now_ms).fetch_all(self.pool()).await?.iter().map(grant).collect()
    }
}

/// Adds a grant that nobody has signed.
///
/// # Errors
/// Those of the database.
pub async fn insert(
    tx: &mut Tx,
    request: &str,
    number: usize,
    part: &GrantPart,
    signatures_needed: u32,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO grant_part (id, request, number, hosts_json, not_before_ms, \
                     not_after_ms, payload, payload_hash, envelope, signatures_needed, signed_ms) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    query(statement)
        .bind(part.id.to_string())
        .bind(request)
        .bind(i64::try_from(number).unwrap_or(i64::MAX))
        .bind(to_json(&part.hosts))
        .bind(part.not_before_ms)
        .bind(part.not_after_ms)
        .bind(part.payload.clone())
        .bind(part.payload_hash())
        .bind(Vec::<u8>::new())
        .bind(i64::from(signatures_needed))
        .bind(0_i64)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Keeps the signatures of a grant. `signed_ms`: 0 while some are missing.
///
/// # Errors
/// Those of the database.
pub async fn set_envelope(
    tx: &mut Tx,
    id: &str,
    envelope: &v1::Envelope,
    signed_ms: i64,
) -> Result<(), StoreError> {
    let update = "UPDATE grant_part SET envelope = $2, signed_ms = $3 WHERE id = $1";
    let update = query(update).bind(id).bind(envelope.encode_to_vec()).bind(signed_ms);
    update.execute(&mut **tx).await?;
    Ok(())
}

/// The grants of a request, as this transaction sees them.
///
/// # Errors
/// Those of the database.
pub async fn of_request(tx: &mut Tx, request: &str) -> Result<Vec<StoredGrant>, StoreError> {
    let rows = query("SELECT * FROM grant_part WHERE request = $1 ORDER BY number").bind(request);
    rows.fetch_all(&mut **tx).await?.iter().map(grant).collect()
}

fn grant(row: &AnyRow) -> Result<StoredGrant, StoreError> {
    let id: &str = row.try_get("id")?;
    let envelope: Vec<u8> = row.try_get("envelope")?;
    let decode = |bytes: Vec<u8>| {
        v1::Envelope::decode(bytes.as_slice()).map_err(|why| StoreError::corrupt("envelope", why))
    };
    let needed: i64 = row.try_get("signatures_needed")?;
    Ok(StoredGrant {
        request: row.try_get("request")?,
        number: row.try_get("number")?,
        part: GrantPart {
            id: id.parse().map_err(|_| StoreError::corrupt("id of a grant", id))?,
            hosts: json("hosts of a grant", row.try_get("hosts_json")?)?,
            not_before_ms: row.try_get("not_before_ms")?,
            not_after_ms: row.try_get("not_after_ms")?,
            payload: row.try_get("payload")?,
        },
        signatures_needed: u32::try_from(needed).unwrap_or(u32::MAX),
        envelope: if envelope.is_empty() { None } else { Some(decode(envelope)?) },
        signed_ms: row.try_get("signed_ms")?,
    })
}
