//! *Audit*: what happened, searched; one record; and all of them as a file.

use std::collections::BTreeMap;

use askama::Template;
use axum::{
    body::Body,
    extract::{Path, State},
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_DISPOSITION, CONTENT_TYPE},
    },
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde_json::Value;

use super::{
    guard::Fields,
    page::{Shell, page},
    text::{When, address, moment_ms},
};
use crate::{
    api::{self, ApiState, Failure, Sight, Written},
    audit::{
        Code, Line,
        export::Format,
        search::{Search, search},
    },
    clock,
    people::session::SignedIn,
    store::StoreError,
};

/// Records of one page.
const ROWS: u32 = 40;
/// Records of one part of an export.
const CHUNK: u32 = 500;
/// Longest text of a record in a list, characters.
const LONGEST: usize = 300;
/// Fields that have a column, or mean nothing to a reader.
const SHOWN: [&str; 8] = ["by", "code", "event", "prev", "request", "seq", "time", "time_ms"];
const FORMATS: [Format; 3] = [Format::Jsonl, Format::Ocsf, Format::SyslogLines];

#[derive(Template)]
#[template(path = "audit.html")]
struct Page<'f> {
    shell: Shell,
    /// It may read all of it; otherwise only what is about one request.
    is_auditor: bool,
    fields: Form<'f>,
    codes: Vec<(&'static str, &'static str)>,
    rows: Vec<Row>,
    /// Where the search goes on; empty: it has ended.
    next: String,
    exports: Vec<(&'static str, String)>,
}

/// What was typed.
struct Form<'f> {
    request: &'f str,
    code: &'f str,
    who: &'f str,
    host: &'f str,
    from: &'f str,
    to: &'f str,
}

struct Row {
    seq: i64,
    time: When,
    code: String,
    event: String,
    by: String,
    request: String,
    rest: String,
}

#[derive(Template)]
#[template(path = "record.html")]
struct Record {
    shell: Shell,
    seq: i64,
    time: When,
    event: String,
    code: String,
    hash: String,
    fields: BTreeMap<String, String>,
    line: String,
}

/// The page. Auditors search everything; others see what is about a request that they see.
pub(super) async fn show(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    let form = Form {
        request: fields.text("request"),
        code: fields.text("code"),
        who: fields.text("who"),
        host: fields.text("host"),
        from: fields.text("from"),
        to: fields.text("to"),
    };
    if !account.is_auditor() {
        if form.request.is_empty() {
            api::auditor(account)?;
        }
        Sight::new(&state, account, clock::now_ms()).await?.find(form.request).await?;
    }
    let wanted = Search {
        request: form.request.to_owned(),
        code: form.code.to_owned(),
        who: form.who.to_owned(),
        host: form.host.to_owned(),
        from_ms: moment_ms("from", form.from)?,
        to_ms: moment_ms("to", form.to)?,
    };
    let below = match fields.text("below") {
        "" => None,
        text => Some(text.parse().map_err(|_| {
            Failure::field("below", "it is not the address of a next page; search anew")
        })?),
    };
    let some = search(state.store(), &wanted, below, ROWS).await?;
    let below = some.below.map(|below| below.to_string()).unwrap_or_default();
    let parameters = [
        ("request", form.request),
        ("code", form.code),
        ("who", form.who),
        ("host", form.host),
        ("from", form.from),
        ("to", form.to),
        ("below", &below),
    ];
    let next = if below.is_empty() { below } else { address("/audit", &parameters) };
    let export = |format: &Format| {
        let word = format.word();
        let parameters = [("format", word), ("from", form.from), ("to", form.to)];
        (word, address("/audit/export", &parameters))
    };
    let found = Page {
        shell: Shell::of(&signed_in, "audit"),
        is_auditor: account.is_auditor(),
        codes: Code::ALL.iter().map(|code| (code.id(), code.name())).collect(),
        rows: some.lines.iter().map(row).collect(),
        next,
        exports: FORMATS.iter().map(export).collect(),
        fields: form,
    };
    page(StatusCode::OK, &found)
}

/// One record, as it is stored.
pub(super) async fn one(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    Path(seq): Path<String>,
) -> Result<Response, Failure> {
    let account = signed_in.account();
    let missing = || Failure::not_found("record", &seq);
    let number: i64 = seq.parse().map_err(|_| missing())?;
    let lines = state.store().audit_after(number.saturating_sub(1), 1).await?;
    let line = lines.into_iter().find(|line| line.seq == number);
    if !account.is_auditor() {
        // Whether there is such a record is not said either.
        let Some(request) = line.as_ref().map(|line| &line.request).filter(|id| !id.is_empty())
        else {
            return Err(missing());
        };
        let mut sight = Sight::new(&state, account, clock::now_ms()).await?;
        sight.find(request).await.map_err(|_| missing())?;
    }
    let line = line.ok_or_else(missing)?;
    let record = fields_of(&line);
    let fields = record.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let event = record.get("event").map(text).unwrap_or_default().replace('_', " ");
    let Line { seq, time_ms, code, request: _, hash, line } = line;
    let shell = Shell::of(&signed_in, "audit");
    let time = When(time_ms);
    page(StatusCode::OK, &Record { shell, seq, time, event, code, hash, fields, line })
}

/// All records of a time as a file, the oldest first.
pub(super) async fn export(
    State(state): State<ApiState>,
    signed_in: SignedIn,
    fields: Fields,
) -> Result<Response, Failure> {
    api::auditor(signed_in.account())?;
    let word = fields.text("format");
    let format = FORMATS.into_iter().find(|format| format.word() == word).ok_or_else(|| {
        let words = FORMATS.map(Format::word).join(", ");
        Failure::field("format", format!("{word:?} is none of {words}"))
    })?;
    let from_ms = moment_ms("from", fields.text("from"))?.unwrap_or(i64::MIN);
    let to_ms = moment_ms("to", fields.text("to"))?.unwrap_or(i64::MAX);
    // What is written meanwhile is not waited for.
    let (tip, _) = state.store().audit_tip().await?;
    let parts = stream::unfold(Some(0), move |after| {
        let state = state.clone();
        async move {
            let after = after.filter(|after| *after < tip)?;
            let lines = match state.store().audit_after(after, CHUNK).await {
                Ok(lines) => lines,
                Err(error) => {
                    tracing::warn!(%error, "an export of the audit breaks off");
                    return Some((Err::<String, StoreError>(error), None));
                }
            };
            let mut text = String::new();
            for line in &lines {
                if line.seq <= tip && (from_ms..to_ms).contains(&line.time_ms) {
                    text.push_str(&format.line(line));
                    text.push('\n');
                }
            }
            Some((Ok(text), lines.last().map(|line| line.seq)))
        }
    });
    let (kind, name) = match format {
        Format::Jsonl => ("application/jsonl", "attachment; filename=\"audit.jsonl\""),
        Format::Ocsf => ("application/jsonl", "attachment; filename=\"audit-ocsf.jsonl\""),
        Format::SyslogLines => ("text/plain; charset=utf-8", "attachment; filename=\"audit.log\""),
    };
    let mut response = Body::from_stream(parts).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CONTENT_DISPOSITION, HeaderValue::from_static(name));
    response.extensions_mut().insert(Written);
    Ok(response)
}

fn fields_of(line: &Line) -> serde_json::Map<String, Value> {
    serde_json::from_str(&line.line).unwrap_or_default()
}

/// A value without the quotes of JSON.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn row(line: &Line) -> Row {
    let record = fields_of(line);
    let field = |name: &str| record.get(name).map(text).unwrap_or_default();
    let rest = record.iter().filter(|(name, value)| {
        let is_empty = value.as_str() == Some("") || value.is_null();
        !SHOWN.contains(&name.as_str()) && !is_empty
    });
    let rest: Vec<_> = rest.map(|(name, value)| format!("{name}: {}", text(value))).collect();
    let rest = rest.join(", ");
    Row {
        seq: line.seq,
        time: When(line.time_ms),
        code: line.code.clone(),
        event: field("event").replace('_', " "),
        by: field("by"),
        request: line.request.clone(),
        rest: match rest.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}...", rest.get(..end).unwrap_or_default()),
            None => rest,
        },
    }
}
