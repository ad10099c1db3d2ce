//! Who could get in where at a moment: from grants, what hosts answered, and revocations.
//!
//! It errs on the side of "could": a host whose answer did not arrive may have opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jit_proto::{PortRange, SourcePrefix, v1};
use prost::Message as _;
use serde::Serialize;
use sqlx::{AssertSqlSafe, Row as _, any::AnyRow, query};

use super::{Code, Line, line};
use crate::{
    model::Answer,
    store::{Store, StoreError},
};

/// Accesses of which the audit is asked at once.
const CHUNK: usize = 200;

/// Which accesses. Empty: all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only on this host; empty: on all.
    pub host: String,
    /// Only these ports.
    pub port: Option<PortRange>,
    /// Only where this address is let in.
    pub source: Option<IpAddr>,
    /// Only of this requester; empty: of all.
    pub requester: String,
}

/// Somebody could get in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Access {
    /// Who asked.
    pub requester: String,
    /// Who agreed; empty: it was approved automatically.
    pub approvers: Vec<String>,
    /// Addresses that were let in.
    pub sources: Vec<String>,
    /// The host.
    pub host: String,
    /// The ports.
    pub ports: Vec<String>,
    /// From when, milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// Until when: its end, or the moment in which the host confirmed an earlier one.
    pub until_ms: i64,
    /// Id of the grant.
    pub grant: String,
    /// The request.
    pub request: String,
    /// Why it was asked.
    pub reason: String,
    /// What the host answered last; `waiting`: nothing, so it may not have opened.
    pub answer: String,
    /// The word of that answer.
    pub word: String,
    /// Whether the host has confirmed that it opened.
    pub certain: bool,
}

/// Who could get in at this moment, by host and grant; at most `most`.
///
/// # Errors
/// Those of the database.
pub async fn access(
    store: &Store,
    at_ms: i64,
    filter: &Filter,
    most: usize,
) -> Result<Vec<Access>, StoreError> {
    // A host that has refused the grant has never opened; one that refused to end it may be open still.
    // One that confirmed the end was open until then.
    let rows = "SELECT delivery.grant_id, delivery.host, delivery.request, delivery.answer, \
                delivery.word, delivery.answered_ms, grant_part.not_before_ms, \
                grant_part.not_after_ms, grant_part.payload \
                FROM grant_part JOIN delivery ON delivery.grant_id = grant_part.id \
                WHERE grant_part.not_after_ms > $1 AND grant_part.not_before_ms <= $1 \
                AND grant_part.signed_ms > 0 AND grant_part.signed_ms <= $1 \
                AND NOT (delivery.answer = $2 AND (delivery.wanted = 'grant' OR delivery.pending = 1)) \
                AND ($3 = '' OR delivery.host = $3) \
                AND (delivery.answer <> $4 OR delivery.answered_ms > $1) \
                ORDER BY delivery.host, delivery.grant_id";
    let rows = query(rows)
        .bind(at_ms)
        .bind(Answer::Refused.word())
        .bind(filter.host.as_str())
        .bind(Answer::Closed.word());
    let mut found = Vec::new();
    for some in rows.fetch_all(store.pool()).await?.chunks(CHUNK) {
        let mut fit = Vec::new();
        for row in some {
            let (one, grant) = read(row)?;
            if wanted(&one, &grant, filter) {
                fit.push(one);
            }
        }
        // The last answer hides the first: the audit has it.
        let closed = fit.iter().filter(|one| one.answer == Answer::Closed.word());
        let records = answers(store, closed.map(|one| one.request.as_str()).collect()).await?;
        for mut one in fit {
            if found.len() >= most {
                return Ok(found);
            }
            if one.answer == Answer::Closed.word() {
                match first_answer(records.get(&one.request).into_iter().flatten(), &one) {
                    Some(Answer::Refused) => continue,
                    Some(Answer::Open | Answer::Scheduled) => one.certain = true,
                    Some(Answer::Closed | Answer::Waiting) | None => {}
                }
            }
            found.push(one);
        }
    }
    Ok(found)
}

/// Records of what hosts answered, by request, in order.
async fn answers(
    store: &Store,
    requests: BTreeSet<&str>,
) -> Result<BTreeMap<String, Vec<Line>>, StoreError> {
    let mut found: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    if requests.is_empty() {
        return Ok(found);
    }
    let places: Vec<_> = (2..).take(requests.len()).map(|number| format!("${number}")).collect();
    let places = places.join(", ");
    // Only numbers of places are put in.
    let rows = AssertSqlSafe(format!(
        "SELECT * FROM audit WHERE code = $1 AND request IN ({places}) ORDER BY seq"
    ));
    let rows =
        requests.iter().fold(query(rows).bind(Code::Answered.id()), |rows, id| rows.bind(*id));
    for row in rows.fetch_all(store.pool()).await? {
        let line = line(&row)?;
        found.entry(line.request.clone()).or_default().push(line);
    }
    Ok(found)
}

/// What the host said of the grant itself, by the audit.
fn first_answer<'l>(lines: impl Iterator<Item = &'l Line>, of: &Access) -> Option<Answer> {
    let answers = lines.filter(|line| line.code == Code::Answered.id()).filter_map(|line| {
        let fields: serde_json::Value = serde_json::from_str(&line.line).ok()?;
        let text = |key: &str| fields.get(key).and_then(serde_json::Value::as_str);
        let same = text("grant") == Some(&of.grant) && text("host") == Some(&of.host);
        let answer = Answer::of_word(text("answer")?)?;
        (same && text("wanted") == Some("grant")).then_some(answer)
    });
    // Open counts, whatever came after it.
    answers.fold(None, |before, answer| match before {
        Some(Answer::Open | Answer::Scheduled) => before,
        _ => Some(answer),
    })
}

fn read(row: &AnyRow) -> Result<(Access, v1::Grant), StoreError> {
    let payload: &[u8] = row.try_get("payload")?;
    let grant = v1::Grant::decode(payload).map_err(|why| StoreError::corrupt("grant", why))?;
    let answer: &str = row.try_get("answer")?;
    let answer = Answer::of_word(answer).ok_or_else(|| StoreError::corrupt("answer", answer))?;
    let answered_ms: i64 = row.try_get("answered_ms")?;
    let not_after_ms: i64 = row.try_get("not_after_ms")?;
    let access = Access {
        requester: grant.requester.clone(),
        approvers: grant.approvers.clone(),
        sources: sources(&grant)?.iter().map(ToString::to_string).collect(),
        host: row.try_get("host")?,
        ports: ports(&grant)?.iter().map(ToString::to_string).collect(),
        from_ms: row.try_get("not_before_ms")?,
        until_ms: match answer {
            Answer::Closed => answered_ms.min(not_after_ms),
            Answer::Open | Answer::Refused | Answer::Scheduled | Answer::Waiting => not_after_ms,
        },
        grant: row.try_get("grant_id")?,
        request: row.try_get("request")?,
        reason: grant.justification.clone(),
        answer: answer.word().to_owned(),
        word: row.try_get("word")?,
        certain: matches!(answer, Answer::Open | Answer::Scheduled),
    };
    Ok((access, grant))
}

fn sources(grant: &v1::Grant) -> Result<Vec<SourcePrefix>, StoreError> {
    let read = |source: &v1::Source| {
        SourcePrefix::try_from(source)
            .map_err(|why| StoreError::corrupt("source of a grant", format!("{why:?}")))
    };
    grant.sources.iter().map(read).collect()
}

fn ports(grant: &v1::Grant) -> Result<Vec<PortRange>, StoreError> {
    let read = |range: &v1::PortRange| {
        PortRange::try_from(range)
            .map_err(|why| StoreError::corrupt("ports of a grant", format!("{why:?}")))
    };
    grant.ports.iter().map(read).collect()
}

fn wanted(access: &Access, grant: &v1::Grant, filter: &Filter) -> bool {
    let Filter { host: _, port, source, requester } = filter;
    let ports = ports(grant).unwrap_or_default();
    let sources = sources(grant).unwrap_or_default();
    let source = source.map(SourcePrefix::from);
    port.is_none_or(|wanted| ports.iter().any(|range| overlap(*range, wanted)))
        && source.is_none_or(|source| sources.iter().any(|prefix| prefix.contains(&source)))
        && (requester.is_empty() || *requester == access.requester)
}

fn overlap(one: PortRange, other: PortRange) -> bool {
    one.protocol == other.protocol && one.first <= other.last && other.first <= one.last
}
