//! Checks the audit: each record follows from the one before, the signed heads are good and lie on the
//! chain, and nothing is missing at its end. The first record that is not as it was written is named.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Line,
    head::{Head, PublicKey, SignedHead},
};
use crate::store::{Store, StoreError};

/// Records that are read at once.
const PAGE: u32 = 1000;
/// The hash before the first record.
pub const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {seq}: {why}")]
pub struct Broken {
    /// The first record that is not as it was written.
    pub seq: i64,
    /// What is wrong with it.
    pub why: String,
}

/// The chain as far as it was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Number of the last record; 0: none yet.
    pub seq: i64,
    /// Its hash.
    pub hash: String,
}

impl Default for Chain {
    fn default() -> Self {
        Self { seq: 0, hash: NOTHING.to_owned() }
    }
}

impl Chain {
    /// Checks the next record.
    ///
    /// # Errors
    /// It is not the one that was written after the last.
    pub fn follow(&mut self, line: &Line) -> Result<(), Broken> {
        let seq = self.seq + 1;
        let broken = |why: String| Err(Broken { seq, why });
        if line.seq != seq {
            return broken(format!("it is missing; the next one there is {}", line.seq));
        }
        if hex::encode(Sha256::digest(line.line.as_bytes())) != line.hash {
            return broken(
                "its text was changed: it has not the hash that is stored with it".into(),
            );
        }
        let Ok(value) = serde_json::from_str::<Value>(&line.line) else {
            return broken("its text is no JSON".into());
        };
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let number = |key: &str| value.get(key).and_then(Value::as_i64);
        if text("prev") != self.hash {
            return broken(format!(
                "it does not follow from record {}: one of the two was changed",
                self.seq
            ));
        }
        // Lists are made by these columns; people read the text.
        for (column, good) in [
            ("seq", number("seq") == Some(seq)),
            ("time_ms", number("time_ms") == Some(line.time_ms)),
            ("code", text("code") == line.code),
            ("request", text("request") == line.request),
        ] {
            if !good {
                return broken(format!("the column {column} does not say what its text says"));
            }
        }
        (self.seq, self.hash) = (seq, line.hash.clone());
        Ok(())
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of the last record that is good.
    pub records: i64,
    /// The hash of that record.
    pub hash: String,
    /// Heads whose signature is good and that lie on the chain.
    pub heads: usize,
    /// The last of them, 0: none. Records after it have only the chain.
    pub signed_until: i64,
    /// What is wrong, the first thing first.
    pub broken: Vec<Broken>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.broken.is_empty()
    }
}

/// Checks everything in the store. `keys`: those whose signature of a head counts; `against`: heads that
/// were kept elsewhere.
///
/// # Errors
/// Those of the database.
pub async fn verify(
    store: &Store,
    keys: &[PublicKey],
    against: &[Head],
    mut each: impl FnMut(i64),
) -> Result<Report, StoreError> {
    // Read first: what is written meanwhile only makes the chain longer.
    let last_head = store.last_signed_head().await?.map_or(0, |head| head.seq);
    let (tip, tip_hash) = store.audit_tip().await?;
    let mut report = Report::default();
    let mut chain = Chain::default();
    let mut wrong_heads = Vec::new();
    let mut kept: Vec<_> = against.iter().collect();
    kept.sort_by_key(|head| head.seq);
    let mut kept = kept.into_iter().peekable();
    'all: loop {
        let page = store.audit_after(chain.seq, PAGE).await?;
        let Some(last) = page.last() else { break };
        let heads = store.signed_heads(chain.seq, last.seq).await?;
        let mut next = heads.iter().peekable();
        for line in &page {
            if let Err(broken) = chain.follow(line) {
                report.broken.push(broken);
                break 'all;
            }
            while let Some(signed) = next.next_if(|signed| signed.seq <= chain.seq) {
                match judge(signed, &chain, keys) {
                    Ok(()) => (report.heads, report.signed_until) = (report.heads + 1, signed.seq),
                    Err(why) => wrong_heads.push(Broken { seq: signed.seq, why }),
                }
            }
            if chain.seq == tip && chain.hash != tip_hash {
                let why = "it is not the one that is stored apart as the end".to_owned();
                report.broken.push(Broken { seq: tip, why });
                break 'all;
            }
            while let Some(head) = kept.next_if(|head| head.seq <= chain.seq) {
                if head.hash != chain.hash {
                    let why = "it is not the one that the head names which was kept elsewhere: it, \
                               or one before it, was written anew";
                    report.broken.push(Broken { seq: head.seq, why: why.into() });
                    break 'all;
                }
            }
        }
        each(chain.seq);
    }
    report.broken.append(&mut wrong_heads);
    if report.is_good() {
        let (end, _) = store.audit_tip().await?;
        let beyond = (last_head > chain.seq).then_some(last_head).into_iter();
        let beyond = beyond.chain(kept.next().map(|head| head.seq));
        let beyond = beyond.chain((tip > chain.seq).then_some(tip)).max();
        if let Some(last) = beyond {
            let why = format!("it is missing, with all up to {last}: the end was cut");
            report.broken.push(Broken { seq: chain.seq + 1, why });
        } else if end < chain.seq {
            let why = format!("the end that is stored apart is record {end}: it was added by hand");
            report.broken.push(Broken { seq: end + 1, why });
        }
    }
    (report.records, report.hash) = (chain.seq, chain.hash);
    Ok(report)
}

fn judge(signed: &SignedHead, chain: &Chain, keys: &[PublicKey]) -> Result<(), String> {
    let head = signed.verify(keys).map_err(|why| format!("its signed head: {why}"))?;
    if (head.seq, &head.hash) != (chain.seq, &chain.hash) {
        return Err("it is not the one that its signed head names: it was written anew".into());
    }
    Ok(())
}
