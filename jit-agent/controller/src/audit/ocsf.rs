//! Records in the names of the Open Cybersecurity Schema Framework (schema.ocsf.io), for a SIEM. The
//! classes of each code are in docs/controller-audit.md. The record itself is there too, byte by byte
//! (`raw_data`), so that the chain can be checked at the receiver.

use serde_json::{Map, Value, json};

use super::{Code, Line};

/// Version of the schema.
pub const VERSION: &str = "1.4.0";

/// A class of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Number of its category.
    pub category: u32,
    /// Its number.
    pub uid: u32,
    /// Its name.
    pub name: &'static str,
}

const fn class(category: u32, uid: u32, name: &'static str) -> Class {
    Class { category, uid, name }
}

const ACCOUNT_CHANGE: Class = class(3, 3001, "Account Change");
const API: Class = class(6, 6003, "API Activity");
const AUTHENTICATION: Class = class(3, 3002, "Authentication");
const AUTHORIZE: Class = class(3, 3003, "Authorize Session");
const BASE: Class = class(0, 0, "Base Event");
const ENTITY: Class = class(3, 3004, "Entity Management");
const FINDING: Class = class(2, 2004, "Detection Finding");
const LIFECYCLE: Class = class(6, 6002, "Application Lifecycle");
const USER_ACCESS: Class = class(3, 3005, "User Access Management");

/// Activities, as the classes number them.
const OTHER: u32 = 99;

/// How loud an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Somebody must look at it now.
    High,
    /// As it should be.
    Informational,
    /// Somebody should look at it.
    Medium,
}

impl Severity {
    const fn ocsf(self) -> (u32, &'static str) {
        match self {
            Self::Informational => (1, "Informational"),
            Self::Medium => (3, "Medium"),
            Self::High => (4, "High"),
        }
    }
}

/// Class and activity of a code. An answer of a host depends on what it says.
pub fn class_of(code: Code, answer: &str) -> (Class, u32) {
    match code {
        Code::AccountChanged
        | Code::KeyAdded
        | Code::KeyRevoked
        | Code::PasskeyAdded
        | Code::PasskeyRemoved
        | Code::PasskeyRenamed => (ACCOUNT_CHANGE, OTHER),
        Code::PasswordSet => (ACCOUNT_CHANGE, 3),
        Code::SignedIn | Code::SignInRefused => (AUTHENTICATION, 1),
        Code::SignedOut => (AUTHENTICATION, 2),
        Code::TokenMade | Code::EnrolmentTokenMade => (API, 1),
        Code::TokenRevoked | Code::EnrolmentTokenRevoked => (API, 4),
        Code::Enrolled | Code::CertificateIssued => (ENTITY, 1),
        Code::EnrolmentDecided => (ENTITY, 3),
        Code::DefenderChanged
        | Code::HostChanged
        | Code::RulesSaved
        | Code::RolloutChanged
        | Code::PolicyAnswered => (ENTITY, 3),
        Code::HostRemoved => (ENTITY, 4),
        Code::HostCondition | Code::HostAuditHead => (ENTITY, OTHER),
        Code::HostAlarm | Code::EnrolmentWaits | Code::NotRenewed => (FINDING, 1),
        Code::HostAlarmsCleared => (FINDING, 3),
        Code::PolicySigned => (ENTITY, 1),
        Code::Submitted => (API, 1),
        Code::Approved | Code::Denied => (API, 3),
        Code::Withdrawn => (API, 4),
        Code::Expired | Code::Escalated | Code::Refused => (API, OTHER),
        Code::Granted | Code::Signed | Code::SigningRefused => (AUTHORIZE, 1),
        Code::Answered if answer == "closed" => (USER_ACCESS, 2),
        Code::Answered => (USER_ACCESS, 1),
        Code::Revoked
        | Code::Ended
        | Code::Replaced
        | Code::ClosingMade
        | Code::ClosingComplete
        | Code::ClosingRefused => (USER_ACCESS, 2),
        Code::Restored | Code::Started | Code::SignerStarted => (LIFECYCLE, 3),
        Code::WebhookChanged => (ENTITY, 3),
        Code::WebhookDisabled => (ENTITY, OTHER),
    }
}

/// How loud an event of this code is.
pub const fn severity_of(code: Code) -> Severity {
    match code {
        Code::HostAlarm | Code::EnrolmentWaits => Severity::High,
        Code::ClosingRefused
        | Code::NotRenewed
        | Code::Refused
        | Code::Restored
        | Code::SignInRefused
        | Code::SigningRefused
        | Code::WebhookDisabled => Severity::Medium,
        _ => Severity::Informational,
    }
}

/// Whether it says that something was not done.
fn has_failed(code: Option<Code>, answer: &str) -> bool {
    let failed = matches!(
        code,
        Some(
            Code::ClosingRefused
                | Code::Denied
                | Code::Expired
                | Code::Refused
                | Code::SignInRefused
                | Code::SigningRefused
        )
    );
    failed || answer == "refused"
}

/// Fields of a record that stand elsewhere in the event.
const MAPPED: [&str; 7] = ["seq", "time_ms", "time", "code", "event", "by", "request"];

/// The event of a record.
pub fn event(line: &Line) -> Value {
    let fields: Map<String, Value> = serde_json::from_str(&line.line).unwrap_or_default();
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let code = Code::of_id(&line.code);
    let answer = text("answer");
    // A record of a later version has a class of its own there.
    let (class, activity) = code.map_or((BASE, OTHER), |code| class_of(code, answer));
    let severity = code.map_or(Severity::Informational, severity_of).ocsf();
    let failed = has_failed(code, answer);
    let (by, name) = (text("by"), text("event"));
    let Class { category, uid, name: class_name } = class;
    let mut event = json!({
        "metadata": {
            "version": VERSION,
            "product": {
                "name": "jit-controller",
                "vendor_name": "jit-agent",
                "version": env!("CARGO_PKG_VERSION"),
            },
            "uid": line.seq.to_string(),
            "sequence": line.seq,
            "event_code": line.code,
            "log_name": "audit",
            "original_time": text("time"),
        },
        "time": line.time_ms,
        "category_uid": category,
        "class_uid": uid,
        "class_name": class_name,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": u64::from(uid) * 100 + u64::from(activity),
        "severity_id": severity.0,
        "severity": severity.1,
        "status_id": if failed { 2 } else { 1 },
        "status": if failed { "Failure" } else { "Success" },
        "actor": { "user": { "name": by, "uid": by } },
        "message": message(&fields),
        "raw_data": line.line,
    });
    let Some(object) = event.as_object_mut() else { return event };
    if !line.request.is_empty()
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.insert("correlation_uid".into(), line.request.as_str().into());
    }
    let subject = match text("requester") {
        "" => by,
        requester => requester,
    };
    let user = json!({ "name": subject, "uid": subject });
    match uid {
        2004 => {
            let what = match text("text") {
                "" => name,
                text => text,
            };
            let finding = json!({ "uid": line.seq.to_string(), "title": what, "types": [name] });
            object.insert("finding_info".into(), finding);
        }
        3001 | 3002 => drop(object.insert("user".into(), user)),
        3003 | 3005 => {
            object.insert("user".into(), user);
            object.insert("privileges".into(), privileges(&fields));
        }
        3004 => {
            let id = ["host", "webhook", "rollout", "policy", "version"]
                .iter()
                .find_map(|key| fields.get(*key));
            // A host may stand there as a whole.
            let id = id.map(|id| id.get("id").unwrap_or(id));
            let id = id.map(|id| id.as_str().map_or_else(|| id.to_string(), str::to_owned));
            let entity = json!({ "name": id.unwrap_or_default(), "type": name });
            object.insert("entity".into(), entity);
        }
        6002 => drop(object.insert("app".into(), json!({ "name": "jit-controller" }))),
        6003 => {
            object.insert(
                "api".into(),
                json!({ "operation": name, "request": { "uid": line.request } }),
            );
            let from = match text("address") {
                "" => json!({ "name": "unknown" }),
                address => json!({ "ip": address }),
            };
            object.insert("src_endpoint".into(), from);
        }
        _ => {}
    }
    if let Some(host) = fields.get("host").and_then(Value::as_str) {
        object.insert("device".into(), json!({ "hostname": host, "uid": host, "type_id": 1 }));
    }
    let rest: Map<_, _> =
        fields.iter().filter(|(key, _)| !MAPPED.contains(&key.as_str())).map(cloned).collect();
    object.insert("unmapped".into(), Value::Object(rest));
    event
}

fn cloned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// What a person reads in a list.
fn message(fields: &Map<String, Value>) -> String {
    let text = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut message = format!("{} by {}", text("event"), text("by"));
    for key in ["host", "answer", "word", "reason"] {
        if !text(key).is_empty() {
            message.push_str(&format!("; {key}: {}", text(key)));
        }
    }
    message
}

/// What is opened: ports on hosts, as far as the record says.
fn privileges(fields: &Map<String, Value>) -> Value {
    let texts = |key: &str| -> Vec<String> {
        match fields.get(key) {
            Some(Value::Array(list)) => {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(Value::String(one)) => vec![one.clone()],
            _ => Vec::new(),
        }
    };
    let hosts = if fields.contains_key("hosts") { texts("hosts") } else { texts("host") };
    let ports = texts("ports");
    let ports = if ports.is_empty() { "ports of the grant".into() } else { ports.join(",") };
    let hosts = if hosts.is_empty() { vec!["hosts of the grant".into()] } else { hosts };
    hosts.iter().map(|host| format!("{host}:{ports}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(code: Code, fields: Value) -> Line {
        let mut value = json!({
            "seq": 7, "time_ms": 1_803_888_000_000_i64, "time": "2027-03-01T00:00:00.000Z",
            "prev": "0", "code": code.id(), "event": code.name(), "by": "ana@example.org",
        });
        value.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        Line {
            seq: 7,
            time_ms: 1_803_888_000_000,
            code: code.id().into(),
            request: "01KPEXAMP1E000000000000001".into(),
            hash: String::new(),
            line: value.to_string(),
        }
    }

    #[test]
    fn every_code_has_an_event_with_the_fields_that_its_class_requires() {
        for code in Code::ALL {
            let event = event(&line(*code, json!({ "host": "web-1", "answer": "open" })));
            let uid = event["class_uid"].as_u64().unwrap();
            let required: &[&str] = match uid {
                2004 => &["finding_info"],
                3001 | 3002 => &["user"],
                3003 | 3005 => &["user", "privileges"],
                3004 => &["entity"],
                6002 => &["app"],
                6003 => &["actor", "api", "src_endpoint"],
                other => panic!("{code:?} has class {other}"),
            };
            let base =
                ["activity_id", "category_uid", "metadata", "severity_id", "time", "type_uid"];
            for field in required.iter().chain(&base) {
                assert!(!event[*field].is_null(), "{code:?} has no {field}");
            }
            let activity = event["activity_id"].as_u64().unwrap();
            assert_eq!(event["type_uid"], uid * 100 + activity);
            assert_eq!(uid / 1000, event["category_uid"].as_u64().unwrap());
        }
    }

    #[test]
    fn the_documentation_has_the_class_of_every_code() {
        let text = include_str!("../../../docs/controller-audit.md");
        for code in Code::ALL {
            let (class, activity) = class_of(*code, "open");
            let row = format!("| `{}` | {} {} | {activity}", code.id(), class.name, class.uid);
            assert!(text.contains(&row), "docs/controller-audit.md lacks {row:?}");
        }
        assert!(text.contains(VERSION), "docs/controller-audit.md lacks the version {VERSION}");
    }

    #[test]
    fn nothing_of_a_record_is_left_out() {
        let record =
            line(Code::Signed, json!({ "hash": "ab", "ports": ["22/tcp"], "hosts": ["a"] }));
        let event = event(&record);
        assert_eq!(event["unmapped"]["hash"], "ab");
        assert_eq!(event["raw_data"], record.line);
        assert_eq!(event["privileges"], json!(["a:22/tcp"]));
        assert_eq!(event["metadata"]["correlation_uid"], record.request);
    }

    #[test]
    fn a_refusal_is_a_failure_and_a_record_of_a_later_version_is_not_lost() {
        let refused = event(&line(Code::Answered, json!({ "answer": "refused" })));
        assert_eq!((&refused["status_id"], &refused["class_uid"]), (&json!(2), &json!(3005)));
        let mut later = line(Code::Ended, json!({}));
        later.code = "Z001".into();
        assert_eq!(event(&later)["class_uid"], 0);
    }
}
