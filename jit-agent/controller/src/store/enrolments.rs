//! Machines that ask to be hosts: tokens and nonces that were given to them, what they have proven,
//! which of them was first, and their certificates. What counts once is taken by one statement, so
//! that of two at the same time one gets it.

use std::collections::BTreeMap;

use sqlx::{Row as _, any::AnyRow, query};

use super::{
    Store, StoreError, Tx,
    error::{json, to_json},
};

/// A token with which hosts enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnrolmentToken {
    /// Its id in the audit.
    pub id: String,
    /// SHA-256 of its text, 64 hex digits.
    pub hash: String,
    /// Labels of every host that comes with it.
    pub labels: BTreeMap<String, String>,
    /// How many more hosts may come with it.
    pub uses_left: i64,
    /// Who made it.
    pub created_by: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// From when on it does not count.
    pub ends_ms: i64,
    /// When it was revoked; 0: it is not.
    pub revoked_ms: i64,
}

impl EnrolmentToken {
    /// What it is now, in a word: `valid`, `used`, `ended` or `withdrawn`.
    pub const fn state(&self, now_ms: i64) -> &'static str {
        match self {
            Self { revoked_ms, .. } if *revoked_ms != 0 => "withdrawn",
            Self { ends_ms, .. } if *ends_ms <= now_ms => "ended",
            Self { uses_left, .. } if *uses_left <= 0 => "used",
            _ => "valid",
        }
    }
}

/// What became of an enrolment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrolmentState {
    /// The host has a certificate, or may have it.
    Issued,
    /// A person has refused it.
    Refused,
    /// A person must decide.
    Waiting,
}

impl EnrolmentState {
    /// Its word in the store.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Refused => "refused",
            Self::Waiting => "waiting",
        }
    }

    /// The one of this word.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Issued, Self::Refused, Self::Waiting].into_iter().find(|one| one.word() == word)
    }
}

/// A machine's request for its first certificate, after it has proven something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Its id.
    pub id: String,
    /// The host that it is.
    pub host: String,
    /// How that was proven: a word of [`Method`](crate::enrol::proof::Method).
    pub method: String,
    /// What its cloud calls the machine, in one spelling.
    pub machine: String,
    /// What the cloud has signed of it.
    pub facts: BTreeMap<String, String>,
    /// Id of the token that it came with; empty: it came without.
    pub token: String,
    /// The request for the certificate, PEM.
    pub csr: String,
    /// SHA-256 of that request, 64 hex digits.
    pub csr_hash: String,
    /// What became of it.
    pub state: EnrolmentState,
    /// Why it waits, or was refused, in words; empty: it did not.
    pub why: String,
    /// When it came, milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Who has decided; empty: nobody.
    pub decided_by: String,
    /// When; 0: nobody has.
    pub decided_ms: i64,
}

/// A certificate of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCertificate {
    /// Its serial number, hex.
    pub serial: String,
    /// The host.
    pub host: String,
    /// The enrolment from which it comes.
    pub enrolment: String,
    /// SHA-256 of the request that it answers.
    pub csr_hash: String,
    /// When it was issued, milliseconds since the Unix epoch.
    pub issued_ms: i64,
    /// Its last millisecond.
    pub not_after_ms: i64,
    /// The certificate, PEM.
    pub pem: String,
}

/// A certificate that is still to be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateWanted {
    /// SHA-256 of the request, 64 hex digits.
    pub csr_hash: String,
    /// The host.
    pub host: String,
    /// The enrolment from which it comes.
    pub enrolment: String,
    /// The request, PEM.
    pub csr: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// An id of a host in small letters: two that differ in case alone are one.
pub fn folded(host: &str) -> String {
    host.to_ascii_lowercase()
}

impl Store {
    /// Tokens with which hosts enrol, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn enrolment_tokens(&self) -> Result<Vec<EnrolmentToken>, StoreError> {
        let rows = query("SELECT * FROM enrolment_token ORDER BY created_ms DESC, id DESC");
        rows.fetch_all(self.pool()).await?.iter().map(token).collect()
    }

    /// Whether the token with this hash has a use left, and has neither ended nor been revoked.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn enrolment_token_counts(
        &self,
        hash: &str,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let row = query(
            "SELECT id FROM enrolment_token \
             WHERE hash = $1 AND uses_left > 0 AND ends_ms > $2 AND revoked_ms = 0",
        );
        let row = row.bind(hash).bind(now_ms).fetch_optional(self.pool()).await?;
        Ok(row.is_some())
    }

    /// An enrolment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn enrolment(&self, id: &str) -> Result<Option<Enrolment>, StoreError> {
        let row = query("SELECT * FROM enrolment WHERE id = $1").bind(id);
        row.fetch_optional(self.pool()).await?.as_ref().map(enrolment).transpose()
    }

    /// Enrolments, the newest first, at most this number. `state`: only those in it. `before`: only
    /// those that are older than this one; empty: from the newest on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn enrolments(
        &self,
        state: Option<EnrolmentState>,
        before: &str,
        most: u32,
    ) -> Result<Vec<Enrolment>, StoreError> {
        // Ids are in the order of their time.
        let rows = query(
            "SELECT * FROM enrolment WHERE ($1 = '' OR state = $1) AND ($2 = '' OR id < $2) \
             ORDER BY id DESC LIMIT $3",
        );
        let rows = rows.bind(state.map_or("", EnrolmentState::word)).bind(before);
        rows.bind(i64::from(most)).fetch_all(self.pool()).await?.iter().map(enrolment).collect()
    }

    /// The last enrolment with this request, by its hash.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn enrolment_of_request(
        &self,
        csr_hash: &str,
    ) -> Result<Option<Enrolment>, StoreError> {
        let row = query("SELECT * FROM enrolment WHERE csr_hash = $1 ORDER BY id DESC LIMIT 1");
        let row = row.bind(csr_hash).fetch_optional(self.pool()).await?;
        row.as_ref().map(enrolment).transpose()
    }

    /// Whether an enrolment is the one that counts for its host.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn enrolment_counts(&self, id: &str) -> Result<bool, StoreError> {
        let row = query("SELECT enrolment FROM enrolled WHERE enrolment = $1").bind(id);
        Ok(row.fetch_optional(self.pool()).await?.is_some())
    }

    /// The certificate that answers a request, by the request's hash; the newest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificate_of_request(
        &self,
        csr_hash: &str,
    ) -> Result<Option<HostCertificate>, StoreError> {
        let row = query(
            "SELECT * FROM certificate WHERE csr_hash = $1 ORDER BY not_after_ms DESC LIMIT 1",
        );
        let row = row.bind(csr_hash).fetch_optional(self.pool()).await?;
        row.as_ref().map(certificate).transpose()
    }

    /// The certificate with this serial number, hex.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificate(&self, serial: &str) -> Result<Option<HostCertificate>, StoreError> {
        let row = query("SELECT * FROM certificate WHERE serial = $1").bind(serial);
        row.fetch_optional(self.pool()).await?.as_ref().map(certificate).transpose()
    }

    /// Serial numbers of the certificates that have not ended and of whose time this part, in
    /// percent, is over, each with its host; those that end first come first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificates_due(
        &self,
        percent: u8,
        now_ms: i64,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let rows = query(
            "SELECT serial, host FROM certificate WHERE not_after_ms > $1 \
             AND issued_ms + (not_after_ms - issued_ms) / 100 * $2 <= $1 \
             ORDER BY not_after_ms, serial",
        );
        let rows = rows.bind(now_ms).bind(i64::from(percent)).fetch_all(self.pool()).await?;
        rows.iter().map(|row| Ok((row.try_get("serial")?, row.try_get("host")?))).collect()
    }

    /// The certificates that are still to be issued, the oldest first, at most this number.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn certificates_wanted(
        &self,
        most: u32,
    ) -> Result<Vec<CertificateWanted>, StoreError> {
        let rows = query("SELECT * FROM certificate_wanted ORDER BY since_ms, csr_hash LIMIT $1");
        let rows = rows.bind(i64::from(most)).fetch_all(self.pool()).await?;
        rows.iter().map(wanted).collect()
    }

    /// The certificates of a host that have not ended, the newest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn host_certificates(
        &self,
        host: &str,
        now_ms: i64,
    ) -> Result<Vec<HostCertificate>, StoreError> {
        let rows = query(
            "SELECT * FROM certificate WHERE host = $1 AND not_after_ms > $2 \
             ORDER BY not_after_ms DESC, serial",
        );
        let rows = rows.bind(host).bind(now_ms).fetch_all(self.pool()).await?;
        rows.iter().map(certificate).collect()
    }
}

/// Keeps a token that was made.
///
/// # Errors
/// Those of the database.
pub async fn add_token(tx: &mut Tx, new: &EnrolmentToken) -> Result<(), StoreError> {
    let statement = "INSERT INTO enrolment_token (id, hash, labels_json, uses_left, created_by, \
                     created_ms, ends_ms, revoked_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    query(statement)
        .bind(new.id.as_str())
        .bind(new.hash.as_str())
        .bind(to_json(&new.labels))
        .bind(new.uses_left)
        .bind(new.created_by.as_str())
        .bind(new.created_ms)
        .bind(new.ends_ms)
        .bind(new.revoked_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Takes one use of the token with this hash. `None`: there is no such one, it has ended, was
/// revoked, or has no use left.
///
/// # Errors
/// Those of the database.
pub async fn take_token(
    tx: &mut Tx,
    hash: &str,
    now_ms: i64,
) -> Result<Option<EnrolmentToken>, StoreError> {
    let update = query(
        "UPDATE enrolment_token SET uses_left = uses_left - 1 \
         WHERE hash = $1 AND uses_left > 0 AND ends_ms > $2 AND revoked_ms = 0",
    );
    let done = update.bind(hash).bind(now_ms).execute(&mut **tx).await?;
    if done.rows_affected() != 1 {
        return Ok(None);
    }
    let row = query("SELECT * FROM enrolment_token WHERE hash = $1").bind(hash);
    row.fetch_optional(&mut **tx).await?.as_ref().map(token).transpose()
}

/// Revokes a token; returns whether there was such a one that was not revoked.
///
/// # Errors
/// Those of the database.
pub async fn revoke_token(tx: &mut Tx, id: &str, now_ms: i64) -> Result<bool, StoreError> {
    let update =
        query("UPDATE enrolment_token SET revoked_ms = $2 WHERE id = $1 AND revoked_ms = 0");
    Ok(update.bind(id).bind(now_ms).execute(&mut **tx).await?.rows_affected() == 1)
}

/// Keeps a nonce that was given, and forgets those that have ended.
///
/// # Errors
/// Those of the database.
pub async fn add_nonce(
    tx: &mut Tx,
    nonce: &str,
    ends_ms: i64,
    now_ms: i64,
) -> Result<(), StoreError> {
    let ended = query("DELETE FROM enrolment_nonce WHERE ends_ms <= $1").bind(now_ms);
    ended.execute(&mut **tx).await?;
    let statement = query("INSERT INTO enrolment_nonce (nonce, ends_ms) VALUES ($1, $2)");
    statement.bind(nonce).bind(ends_ms).execute(&mut **tx).await?;
    Ok(())
}

/// Takes a nonce: it is good once. `false`: it was never given, has ended, or was taken before.
///
/// # Errors
/// Those of the database.
pub async fn take_nonce(tx: &mut Tx, nonce: &str, now_ms: i64) -> Result<bool, StoreError> {
    let delete = query("DELETE FROM enrolment_nonce WHERE nonce = $1 AND ends_ms > $2");
    let done = delete.bind(nonce).bind(now_ms).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// What is known of a host, in any case of letters, or of a machine; the oldest first.
///
/// # Errors
/// Those of the database.
pub async fn earlier(tx: &mut Tx, host: &str, machine: &str) -> Result<Vec<Enrolment>, StoreError> {
    let rows =
        query("SELECT * FROM enrolment WHERE folded = $1 OR machine = $2 ORDER BY created_ms, id");
    let rows = rows.bind(folded(host)).bind(machine).fetch_all(&mut **tx).await?;
    rows.iter().map(enrolment).collect()
}

/// Keeps an enrolment.
///
/// # Errors
/// Those of the database.
pub async fn add(tx: &mut Tx, new: &Enrolment) -> Result<(), StoreError> {
    let statement = "INSERT INTO enrolment (id, host, folded, method, machine, facts_json, token, csr, \
                     csr_hash, state, why, created_ms, decided_by, decided_ms) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    query(statement)
        .bind(new.id.as_str())
        .bind(new.host.as_str())
        .bind(folded(&new.host))
        .bind(new.method.as_str())
        .bind(new.machine.as_str())
        .bind(to_json(&new.facts))
        .bind(new.token.as_str())
        .bind(new.csr.as_str())
        .bind(new.csr_hash.as_str())
        .bind(new.state.word())
        .bind(new.why.as_str())
        .bind(new.created_ms)
        .bind(new.decided_by.as_str())
        .bind(new.decided_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Writes down that an enrolment is the first of its host and of its machine. `false`: it is not.
///
/// # Errors
/// Those of the database.
pub async fn be_first(tx: &mut Tx, new: &Enrolment) -> Result<bool, StoreError> {
    let statement = "INSERT INTO enrolled (folded, machine, enrolment, since_ms) \
                     VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    let insert = query(statement)
        .bind(folded(&new.host))
        .bind(new.machine.as_str())
        .bind(new.id.as_str())
        .bind(new.created_ms);
    Ok(insert.execute(&mut **tx).await?.rows_affected() == 1)
}

/// Writes down that a person lets an enrolment take the place of all others of its host and of its
/// machine.
///
/// # Errors
/// Those of the database.
pub async fn replace(tx: &mut Tx, new: &Enrolment, now_ms: i64) -> Result<(), StoreError> {
    let delete = query("DELETE FROM enrolled WHERE folded = $1 OR machine = $2");
    delete.bind(folded(&new.host)).bind(new.machine.as_str()).execute(&mut **tx).await?;
    let statement = "INSERT INTO enrolled (folded, machine, enrolment, since_ms) \
                     VALUES ($1, $2, $3, $4)";
    query(statement)
        .bind(folded(&new.host))
        .bind(new.machine.as_str())
        .bind(new.id.as_str())
        .bind(now_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The enrolment that counts for a host; `None`: it has none.
///
/// # Errors
/// Those of the database.
pub async fn of_host(tx: &mut Tx, host: &str) -> Result<Option<Enrolment>, StoreError> {
    let row = query(
        "SELECT enrolment.* FROM enrolled JOIN enrolment ON enrolment.id = enrolled.enrolment \
         WHERE enrolled.folded = $1",
    );
    let row = row.bind(folded(host)).fetch_optional(&mut **tx).await?;
    row.as_ref().map(enrolment).transpose()
}

/// An enrolment, as this transaction sees it.
///
/// # Errors
/// Those of the database.
pub async fn one(tx: &mut Tx, id: &str) -> Result<Option<Enrolment>, StoreError> {
    let row = query("SELECT * FROM enrolment WHERE id = $1").bind(id);
    row.fetch_optional(&mut **tx).await?.as_ref().map(enrolment).transpose()
}

/// Writes down what a person has decided of an enrolment that waits. `false`: it does not wait.
///
/// # Errors
/// Those of the database.
pub async fn decided(
    tx: &mut Tx,
    id: &str,
    state: EnrolmentState,
    by: &str,
    now_ms: i64,
) -> Result<bool, StoreError> {
    let update = query(
        "UPDATE enrolment SET state = $2, decided_by = $3, decided_ms = $4 \
         WHERE id = $1 AND state = $5",
    );
    let update = update.bind(id).bind(state.word()).bind(by).bind(now_ms);
    let done = update.bind(EnrolmentState::Waiting.word()).execute(&mut **tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps a certificate that was issued.
///
/// # Errors
/// Those of the database.
pub async fn add_certificate(tx: &mut Tx, new: &HostCertificate) -> Result<(), StoreError> {
    let statement = "INSERT INTO certificate (serial, host, enrolment, csr_hash, issued_ms, \
                     not_after_ms, pem) VALUES ($1, $2, $3, $4, $5, $6, $7)";
    query(statement)
        .bind(new.serial.as_str())
        .bind(new.host.as_str())
        .bind(new.enrolment.as_str())
        .bind(new.csr_hash.as_str())
        .bind(new.issued_ms)
        .bind(new.not_after_ms)
        .bind(new.pem.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Has the signer's process issue a certificate. The same request is wanted once.
///
/// # Errors
/// Those of the database.
pub async fn want(tx: &mut Tx, new: &CertificateWanted) -> Result<(), StoreError> {
    let statement = "INSERT INTO certificate_wanted (csr_hash, host, enrolment, csr, since_ms) \
                     VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    query(statement)
        .bind(new.csr_hash.as_str())
        .bind(new.host.as_str())
        .bind(new.enrolment.as_str())
        .bind(new.csr.as_str())
        .bind(new.since_ms)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A certificate is not wanted any more. `false`: it was not.
///
/// # Errors
/// Those of the database.
pub async fn unwant(tx: &mut Tx, csr_hash: &str) -> Result<bool, StoreError> {
    let delete = query("DELETE FROM certificate_wanted WHERE csr_hash = $1").bind(csr_hash);
    Ok(delete.execute(&mut **tx).await?.rows_affected() == 1)
}

/// Labels of the hosts that come with a token, by its id; none of one that is not there.
///
/// # Errors
/// Those of the database.
pub async fn token_labels(tx: &mut Tx, id: &str) -> Result<BTreeMap<String, String>, StoreError> {
    let row = query("SELECT * FROM enrolment_token WHERE id = $1").bind(id);
    let found = row.fetch_optional(&mut **tx).await?.as_ref().map(token).transpose()?;
    Ok(found.map(|token| token.labels).unwrap_or_default())
}

fn wanted(row: &AnyRow) -> Result<CertificateWanted, StoreError> {
    Ok(CertificateWanted {
        csr_hash: row.try_get("csr_hash")?,
        host: row.try_get("host")?,
        enrolment: row.try_get("enrolment")?,
        csr: row.try_get("csr")?,
        since_ms: row.try_get("since_ms")?,
    })
}

fn token(row: &AnyRow) -> Result<EnrolmentToken, StoreError> {
    Ok(EnrolmentToken {
        id: row.try_get("id")?,
        hash: row.try_get("hash")?,
        labels: json("labels of a token", row.try_get("labels_json")?)?,
        uses_left: row.try_get("uses_left")?,
        created_by: row.try_get("created_by")?,
        created_ms: row.try_get("created_ms")?,
        ends_ms: row.try_get("ends_ms")?,
        revoked_ms: row.try_get("revoked_ms")?,
    })
}

fn enrolment(row: &AnyRow) -> Result<Enrolment, StoreError> {
    Ok(Enrolment {
        id: row.try_get("id")?,
        host: row.try_get("host")?,
        method: row.try_get("method")?,
        machine: row.try_get("machine")?,
        facts: json("facts of a machine", row.try_get("facts_json")?)?,
        token: row.try_get("token")?,
        csr: row.try_get("csr")?,
        csr_hash: row.try_get("csr_hash")?,
        state: state(row.try_get("state")?)?,
        why: row.try_get("why")?,
        created_ms: row.try_get("created_ms")?,
        decided_by: row.try_get("decided_by")?,
        decided_ms: row.try_get("decided_ms")?,
    })
}

fn state(word: &str) -> Result<EnrolmentState, StoreError> {
    let corrupt = || StoreError::corrupt("state of an enrolment", word);
    EnrolmentState::of_word(word).ok_or_else(corrupt)
}

fn certificate(row: &AnyRow) -> Result<HostCertificate, StoreError> {
    Ok(HostCertificate {
        serial: row.try_get("serial")?,
        host: row.try_get("host")?,
        enrolment: row.try_get("enrolment")?,
        csr_hash: row.try_get("csr_hash")?,
        issued_ms: row.try_get("issued_ms")?,
        not_after_ms: row.try_get("not_after_ms")?,
        pem: row.try_get("pem")?,
    })
}
