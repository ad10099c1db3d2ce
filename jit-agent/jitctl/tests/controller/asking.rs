//! Requests and decisions: what is shown before, what is sent, what comes of it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jit_client::controller::types::{
    AnswerCounts, AnswerView, EligibleView, GrantView, Preview, RequestView, VerdictView,
};
use jit_proto::{
    PortRange, SourcePrefix, dsse::pre_authentication_encoding, payload_type::GRANT_TYPE, v1,
};
use prost::Message as _;

use crate::server::{Controller, ok, page, problem};

const ID: &str = "01KPEXAMP1E000000000000001";

pub(crate) fn preview(outcome: &str) -> Preview {
    Preview {
        hosts: vec!["web-1".into()],
        sources: vec!["203.0.113.7/32".into()],
        ports: vec!["22/tcp".into()],
        duration: "1h".into(),
        verdict: VerdictView {
            outcome: outcome.into(),
            needs_text: "1 of sre".into(),
            denied: if outcome == "denied" { vec!["a freeze".into()] } else { Vec::new() },
            ..VerdictView::default()
        },
        eligible: vec![EligibleView {
            subject: "li@example.org".into(),
            groups: vec!["sre".into()],
            ..EligibleView::default()
        }],
        ..Preview::default()
    }
}

pub(crate) fn view(state: &str) -> RequestView {
    RequestView {
        id: ID.into(),
        state: state.into(),
        is_final: matches!(state, "denied" | "revoked" | "withdrawn" | "refused"),
        requester: "ana@example.org".into(),
        hosts: vec!["web-1".into(), "web-2".into()],
        hash: "5f0c".into(),
        missing_text: if state == "pending" { "1 of sre".into() } else { String::new() },
        ..RequestView::default()
    }
}

fn answer(host: &str, word: &str, pending: bool) -> AnswerView {
    AnswerView { host: host.into(), answer: word.into(), pending, ..AnswerView::default() }
}

const ASK: &str = "request web-2 web-1 --port 22 --source 203.0.113.7 --why w";

#[test]
fn who_may_approve_is_shown_before_and_the_request_is_sent_once() {
    let controller = Controller::with_login();
    let busy = problem(503, "unavailable", "busy").header("retry-after", "0");
    controller.answers("POST /requests", [ok(&preview("manual")), busy, ok(&view("pending"))]);
    let said = controller.jitctl(ASK).good();
    let (may, id) = (said.find("may agree  li@example.org (sre)"), said.find(ID));
    assert!(may.unwrap() < id.unwrap(), "{said}");
    assert!(said.contains("waits for 1 of sre"), "{said}");
    let asked = controller.asked();
    let calls: Vec<_> = asked.iter().map(|one| one.call.as_str()).collect();
    assert_eq!(calls, ["POST /requests"; 3]);
    assert_eq!((asked[0].query.as_str(), asked[0].header("idempotency-key")), ("preview=true", ""));
    let key = asked[1].header("idempotency-key");
    assert!(!key.is_empty());
    // The second attempt is the same request.
    assert_eq!((key, &asked[1].body), (asked[2].header("idempotency-key"), &asked[2].body));
    let sent = asked[1].json();
    assert_eq!(sent["hosts"], serde_json::json!(["web-1", "web-2"]));
    assert_eq!(sent["sources"], serde_json::json!(["203.0.113.7"]));
    assert_eq!((&sent["duration_ms"], &sent["reason"]), (&3_600_000.into(), &"w".into()));
}

#[test]
fn what_the_rules_deny_is_not_submitted() {
    let controller = Controller::with_login();
    controller.says("POST /requests", ok(&preview("denied")));
    controller.jitctl(ASK).fails(77, "refused: denied_by_rules: a freeze");
    assert_eq!(controller.asked().len(), 1);
    assert_eq!(controller.jitctl(&format!("{ASK} --dry-run")).exit, Some(77));
    controller.says("POST /requests", ok(&preview("automatic")));
    let said = controller.jitctl(&format!("{ASK} --dry-run")).good();
    assert!(said.contains("approved without a person"), "{said}");
    assert!(controller.asked().iter().all(|one| one.query == "preview=true"));
}

#[test]
fn hosts_are_chosen_by_labels_and_checked_again_here() {
    let controller = Controller::with_login();
    let host = |id: &str, env: &str| jit_client::controller::types::HostView {
        id: id.into(),
        labels: [("env".to_owned(), env.to_owned())].into(),
        ..Default::default()
    };
    let first = page(&[host("web-1", "prod"), host("web-9", "test")], Some("web-9"));
    controller.answers("GET /hosts", [first, page(&[host("web-2", "prod")], None)]);
    controller.says("POST /requests", ok(&preview("automatic")));
    let ask = "request --label env=prod --port 22 --source 203.0.113.7 --why w --dry-run";
    controller.jitctl(ask).good();
    let asked = controller.asked();
    assert!(asked[0].query.contains("label=env%3Dprod"), "{asked:?}");
    assert!(asked[1].query.contains("cursor=web-9"), "{asked:?}");
    assert_eq!(asked[2].json()["hosts"], serde_json::json!(["web-1", "web-2"]));
    controller.says("GET /hosts", page(&[(); 0], None));
    controller.jitctl(ask).fails(64, "no host has these labels");
}

#[test]
fn ones_own_address_is_the_one_that_the_host_sees() {
    let controller = Controller::with_login();
    let candidates = |all: &[(&str, bool)]| {
        let all: Vec<_> = all
            .iter()
            .map(|(address, same)| {
                serde_json::json!({"address": address, "seen": "T", "seen_ms": 1, "same": same})
            })
            .collect();
        ok(&serde_json::json!({
            "address": "203.0.113.7", "forwarded": false, "candidates": all, "trouble": "",
        }))
    };
    controller.says("POST /requests", ok(&preview("automatic")));
    controller
        .says("GET /me/address", candidates(&[("198.51.100.9", false), ("203.0.113.7", true)]));
    let ask = "request web-1 --port 22 --why w --dry-run";
    let said = controller.jitctl(ask).good();
    assert!(said.contains("(as web-1 sees you)"), "{said}");
    let asked = controller.asked();
    let query = &asked.iter().find(|one| one.call == "GET /me/address").unwrap().query;
    assert_eq!(query, "host=web-1&port=22%2Ftcp");
    assert_eq!(asked.last().unwrap().json()["sources"], serde_json::json!(["203.0.113.7"]));
    // Another one: a person must say which, and nobody sits here.
    controller.says("GET /me/address", candidates(&[("198.51.100.9", false)]));
    controller.jitctl(ask).fails(64, "198.51.100.9  dropped by web-1");
}

#[test]
fn the_exit_code_of_a_wait_is_the_worst_outcome() {
    let controller = Controller::with_login();
    let wait = format!("{ASK} --wait=3s");
    let mut open = view("open");
    open.answers = vec![answer("web-1", "open", false), answer("web-2", "open", false)];
    controller.answers("POST /requests", [ok(&preview("manual")), ok(&view("pending"))]);
    let show = format!("GET /requests/{ID}");
    controller.answers(&show, [ok(&view("pending")), ok(&view("approved")), ok(&open)]);
    let said = controller.jitctl(&wait).good();
    assert!(said.ends_with("state      open\n"), "{said}");

    let mut partly = view("partly");
    partly.answers = vec![answer("web-1", "open", false), answer("web-2", "refused", false)];
    partly.answers[1].word = "too_long".into();
    partly.answers[1].detail = "the port allows 30m".into();
    controller.says(&show, ok(&partly));
    controller.answers("POST /requests", [ok(&preview("manual")), ok(&view("pending"))]);
    let said = controller.jitctl(&wait);
    assert_eq!(said.exit, Some(77), "{said:?}");
    assert!(said.out.contains("web-2  refused  too_long: the port allows 30m"), "{said:?}");

    partly.answers[1] = answer("web-2", "waiting", true);
    partly.counts = AnswerCounts { open: 1, waiting: 1, unreachable: 1, ..Default::default() };
    controller.says(&show, ok(&partly));
    controller.answers("POST /requests", [ok(&preview("manual")), ok(&view("pending"))]);
    controller.jitctl(&format!("{ASK} --wait=1s")).fails(69, "1 open, 1 unreachable");

    controller.says(&show, ok(&view("denied")));
    controller.answers("POST /requests", [ok(&preview("manual")), ok(&view("pending"))]);
    assert_eq!(controller.jitctl(&wait).exit, Some(77));
}

#[test]
fn an_approval_names_the_hash_that_was_read() {
    let controller = Controller::with_login();
    controller.says(&format!("GET /requests/{ID}"), ok(&view("pending")));
    let decision = format!("POST /requests/{ID}/decision");
    controller.says(&decision, ok(&view("approved")));
    controller.jitctl(&format!("approve {ID}")).fails(64, "--hash HASH");
    controller.jitctl(&format!("approve {ID} --hash 0000")).fails(77, "refused: changed: ");
    assert!(controller.asked().iter().all(|one| one.call.starts_with("GET ")));
    let said = controller.jitctl(&format!("approve {ID} --hash 5F0C --reason seen")).good();
    assert!(said.contains("hash       5f0c") && said.ends_with("it is approved\n"), "{said}");
    let asked = controller.asked();
    let sent = asked.last().unwrap().json();
    assert_eq!((&sent["hash"], &sent["ruling"]), (&"5f0c".into(), &"approve".into()));
    controller.says(&decision, problem(403, "self_approval", "ana asked for it"));
    let said = controller.jitctl(&format!("approve {ID} --yes"));
    said.fails(77, "refused: self_approval: ana asked for it; look again");
    controller.says(&decision, ok(&view("denied")));
    controller.asked();
    controller.jitctl(&format!("deny {ID} --reason no")).good();
    assert_eq!(controller.asked().last().unwrap().json()["ruling"], "deny");
}

#[test]
fn a_signature_is_made_only_of_what_was_shown() {
    let controller = Controller::with_login();
    controller.jitctl("keygen --algorithm ed25519 --out li").good();
    let mut waiting = view("awaiting_signatures");
    waiting.sources = vec!["203.0.113.7".into()];
    waiting.ports = vec!["22/tcp".into()];
    waiting.duration_ms = 3_600_000;
    let part =
        GrantView { id: ID.into(), state: "awaiting_signatures".into(), ..Default::default() };
    waiting.grants = vec![part.clone()];
    let grant = |host: &str| v1::Grant {
        hosts: vec![host.into()],
        sources: vec![v1::Source::from(&"203.0.113.7".parse::<SourcePrefix>().unwrap())],
        ports: vec![v1::PortRange::from("22".parse::<PortRange>().unwrap())],
        not_after_ms: 3_600_000,
        requester: "ana@example.org".into(),
        ..v1::Grant::default()
    };
    let whole = |host: &str| {
        let payload = STANDARD.encode(grant(host).encode_to_vec());
        ok(&GrantView { payload: Some(payload), ..part.clone() })
    };
    controller.says(&format!("GET /requests/{ID}"), ok(&waiting));
    controller.says(&format!("POST /requests/{ID}/signatures"), ok(&view("delivering")));
    controller.says(&format!("GET /grants/{ID}"), whole("db-1"));
    let approve = format!("approve {ID} --yes --signing-key li.key");
    controller.jitctl(&approve).fails(77, "refused: payload_differs: ");
    assert!(controller.asked().iter().all(|one| one.call.starts_with("GET ")));
    controller.says(&format!("GET /grants/{ID}"), whole("web-1"));
    controller.jitctl(&approve).good();
    let sent = controller.asked().last().unwrap().json();
    let signature = STANDARD.decode(sent["signature"].as_str().unwrap()).unwrap();
    let key = std::fs::read_to_string(controller.file("li.pub.pem")).unwrap();
    let key = jit_client::public_key::PublicKey::from_pem(&key).unwrap();
    let message = pre_authentication_encoding(GRANT_TYPE, &grant("web-1").encode_to_vec());
    assert!(key.verifies(&message, &signature));
    controller.jitctl(&format!("approve {ID} --yes --signing-key none.key")).fails(78, "none.key");
    // The approval stands, also when the signature is refused.
    let refused = problem(403, "scope_missing", "it needs the scope `signatures`");
    controller.says(&format!("POST /requests/{ID}/signatures"), refused);
    let said = controller.jitctl(&approve);
    assert!(said.out.ends_with("it is awaiting_signatures\n"), "{said:?}");
    said.fails(77, "approved, but not signed:\nrefused: scope_missing: ");
}

#[test]
fn a_change_of_a_request_says_what_it_is_then() {
    let controller = Controller::with_login();
    let changed = |what: &str, state: &str| {
        controller.says(&format!("POST /requests/{ID}/{what}"), ok(&view(state)));
    };
    changed("withdraw", "withdrawn");
    let said = controller.jitctl(&format!("withdraw {ID}")).good();
    assert_eq!(said, format!("request {ID}: withdrawn\n"));
    changed("extend", "pending");
    controller.jitctl(&format!("extend {ID} --for 30m --reason r")).good();
    let asked = controller.asked();
    assert_eq!(asked.last().unwrap().json()["duration_ms"], 1_800_000);
    assert!(!asked.last().unwrap().header("idempotency-key").is_empty());
    changed("shorten", "open");
    controller.jitctl(&format!("shorten {ID} --until 2027-03-01T08:00:00Z")).good();
    assert_eq!(controller.asked()[0].json()["ends_ms"], 1_803_888_000_000_i64);
    let mut revoked = view("revoked");
    revoked.answers = vec![answer("web-1", "closed", false), answer("web-2", "closed", false)];
    controller.says(&format!("POST /requests/{ID}/revoke"), ok(&revoked));
    let said = controller.jitctl(&format!("revoke --request {ID} --reason over")).good();
    assert_eq!(said, format!("revoked {ID}: ended on 2 hosts\n"));
    controller
        .jitctl(&format!("revoke --request {ID} --cut --reason over"))
        .fails(64, "--cut goes to an agent");
}
