//! Hosts, rules, accounts, tokens, audit.

use jit_client::controller::types::{
    AccountKeyView, AccountView, AuditView, EnrolmentTokenMade, EnrolmentTokenView, EnrolmentView,
    HostView, ImportResult, PasskeyView, RulesDiff, RulesTestResult, RulesView, TextMistake,
    TokenMade, TokenView,
};
use jit_client::public_key::PublicKey;
use serde_json::{Value, json};

use crate::server::{Controller, ok, page, problem};

#[test]
fn a_host_is_added_once_and_a_change_keeps_the_rest() {
    let controller = Controller::with_login();
    let host = HostView {
        id: "web-1".into(),
        address: "192.0.2.10:7443".into(),
        server_name: "web".into(),
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        ..HostView::default()
    };
    controller.says("PUT /hosts/web-1", ok(&host));
    controller
        .jitctl("hosts add web-1 --address 192.0.2.10 --server-name web --label env=prod")
        .good();
    let sent = controller.asked().last().unwrap().json();
    assert_eq!(
        sent,
        json!({
            "address": "192.0.2.10:7443", "server_name": "web", "labels": {"env": "prod"}, "groups": [],
        })
    );
    controller.says("GET /hosts/web-1", ok(&host));
    controller.jitctl("hosts add web-1 --address 192.0.2.11").fails(77, "refused: exists: ");
    controller.jitctl("hosts set web-1 --label role=db --group web").good();
    let sent = controller.asked().last().unwrap().json();
    assert_eq!(sent["labels"], json!({"env": "prod", "role": "db"}));
    assert_eq!((&sent["server_name"], &sent["groups"]), (&json!("web"), &json!(["web"])));
    controller.jitctl("hosts remove web-1").fails(64, "add --yes");
    controller.says("DELETE /hosts/web-1", ok(&json!(null)));
    controller.jitctl("hosts remove web-1 --yes").good();
}

#[test]
fn an_import_sends_the_file_and_shows_each_mistake() {
    let controller = Controller::with_login();
    std::fs::write(controller.file("hosts.csv"), "id,address\nweb-1,web-1\n").unwrap();
    let result = ImportResult { added: vec!["web-1".into()], ..ImportResult::default() };
    controller.says("POST /hosts/import", ok(&result));
    let said = controller.jitctl("hosts import hosts.csv --dry-run").good();
    assert!(said.starts_with("added 1: web-1\n"), "{said}");
    let asked = controller.asked();
    assert_eq!(
        (asked[0].query.as_str(), asked[0].header("content-type")),
        ("dry_run=true", "text/csv")
    );
    assert_eq!(asked[0].body, "id,address\nweb-1,web-1\n");
    let refused = json!({
        "word": "invalid_inventory", "detail": "2 mistakes",
        "mistakes": [{"line": 2, "column": 0, "text": "no port"}, {"line": 3, "column": 0, "text": "twice"}],
    });
    let answer = problem(422, "", "");
    controller.says("POST /hosts/import", answer.with_body(&refused));
    let said = controller.jitctl("hosts import hosts.csv");
    said.fails(78, "2 mistakes\n  line 2: no port\n  line 3: twice");
    controller.jitctl("hosts import ca.pem").fails(64, ".csv or .toml");
}

#[test]
fn rules_are_saved_only_over_the_version_that_was_compared() {
    let controller = Controller::with_login();
    std::fs::write(controller.file("r.cedar"), "permit(principal, action, resource);\n").unwrap();
    let rules = |version| RulesView { version, text: "old".into(), ..RulesView::default() };
    controller.says("GET /rules", ok(&rules(3)).header("etag", "\"3\""));
    let diff = RulesDiff { from: 3, text: "-old\n+new\n".into(), ..RulesDiff::default() };
    controller.says("POST /rules/diff", ok(&diff));
    controller.says("PUT /rules", ok(&rules(4)));
    controller.jitctl("rules save r.cedar --note n").fails(64, "add --yes");
    let said = controller.jitctl("rules save r.cedar --note n --yes").good();
    assert_eq!(said, "-old\n+new\nversion 4 is in force\n");
    let asked = controller.asked();
    let put = asked.last().unwrap();
    assert_eq!((put.call.as_str(), put.header("if-match")), ("PUT /rules", "\"3\""));
    assert_eq!(put.json(), json!({"text": "permit(principal, action, resource);\n", "note": "n"}));
    controller.says("PUT /rules", problem(412, "precondition_failed", "version 4 is in force"));
    let said = controller.jitctl("rules rollback 2 --yes");
    said.fails(77, "refused: precondition_failed: ");
    // It is not tried again: nobody could say who saved.
    let puts = controller.asked().iter().filter(|one| one.call == "PUT /rules").count();
    assert_eq!(puts, 1);
}

#[test]
fn a_check_of_rules_names_line_and_column() {
    let controller = Controller::with_login();
    std::fs::write(controller.file("r.cedar"), "x").unwrap();
    let mistakes = vec![TextMistake { line: 1, column: 1, text: "unexpected x".into() }];
    let result = RulesTestResult { mistakes, ..RulesTestResult::default() };
    controller.says("POST /rules/test", ok(&result));
    let said = controller.jitctl("rules check r.cedar");
    assert_eq!((said.exit, said.out.as_str()), (Some(78), "r.cedar:1:1: unexpected x\n"));
    let passed = RulesTestResult { passed: true, ..RulesTestResult::default() };
    controller.says("POST /rules/test", ok(&passed));
    controller.jitctl("rules check r.cedar").good();
}

#[test]
fn a_token_is_printed_alone_and_made_once() {
    let controller = Controller::with_login();
    let view = TokenView { id: "01T".into(), account: "ci".into(), ..TokenView::default() };
    let made = TokenMade { token: "jit_made".into(), view };
    controller.answers("POST /tokens", [problem(503, "unavailable", "busy"), ok(&made)]);
    let make = "tokens make --account ci --scope hosts,read --for 30d --label inventory";
    // Sent twice it would be two tokens: it is not.
    controller.jitctl(make).fails(69, "busy");
    let said = controller.jitctl(make);
    assert_eq!((said.exit, said.out.as_str()), (Some(0), "jit_made\n"));
    assert!(said.err.contains("token 01T of ci"), "{said:?}");
    let asked = controller.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].json()["scopes"], json!(["hosts", "read"]));
    controller.jitctl("tokens make --scope root --for 1d").fails(64, "root");
}

#[test]
fn machines_that_wait_are_listed_and_decided_on() {
    let controller = Controller::with_login();
    let one = EnrolmentView {
        id: "01E".into(),
        host: "web-1".into(),
        state: "waiting".into(),
        why: "web-1 has asked\u{1b}[2J before".into(),
        csr_sha256: "ab".repeat(32),
        ..EnrolmentView::default()
    };
    controller.says("GET /enrolments", page(&[&one], None));
    let said = controller.jitctl("enrolments").good();
    assert!(said.contains("web-1") && said.contains("abababababababab "), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains(&one.csr_sha256), "{said}");
    assert_eq!(controller.asked().last().unwrap().query, "state=waiting");
    let shown: Value =
        serde_json::from_str(&controller.jitctl("enrolments --state all --json").good()).unwrap();
    assert_eq!(shown[0]["csr_sha256"], one.csr_sha256);
    assert_eq!(controller.asked().last().unwrap().query, "");
    let accepted = EnrolmentView { state: "issued".into(), ..one };
    controller.says("POST /enrolments/01E/decision", ok(&accepted));
    for ruling in ["accept", "refuse"] {
        let said = controller.jitctl(&format!("enrolments {ruling} 01E")).good();
        assert_eq!(said, "01E: web-1 is issued\n");
        assert_eq!(controller.asked().last().unwrap().json(), json!({ "ruling": ruling }));
    }
    controller.jitctl("enrolments --state none").fails(64, "none");
}

#[test]
fn a_token_for_hosts_is_printed_alone_and_made_once() {
    let controller = Controller::with_login();
    let view =
        EnrolmentTokenView { id: "01T".into(), uses_left: 20, ..EnrolmentTokenView::default() };
    let made = EnrolmentTokenMade { token: "jit_enrol_made".into(), view: view.clone() };
    let call = "POST /enrolments/tokens";
    controller.answers(call, [problem(503, "unavailable", "busy"), ok(&made)]);
    let create = "enrolments token create --label env=test --uses 20 --for 2h";
    controller.jitctl(create).fails(69, "busy");
    let said = controller.jitctl(create);
    assert_eq!((said.exit, said.out.as_str()), (Some(0), "jit_enrol_made\n"));
    assert!(said.err.contains("token 01T for 20 hosts"), "{said:?}");
    let sent = controller.asked().last().unwrap().json();
    assert_eq!(sent, json!({"labels": {"env": "test"}, "uses": 20, "duration_ms": 7_200_000}));
    controller.jitctl("enrolments token create").fails(64, "--label");
    controller.says("GET /enrolments/tokens", page(&[&view], None));
    assert!(controller.jitctl("enrolments token list").good().contains("01T"));
    controller.says("DELETE /enrolments/tokens/01T", ok(&json!(null)));
    controller.jitctl("enrolments token withdraw 01T").good();
}

#[test]
fn an_account_is_changed_without_losing_groups() {
    let controller = Controller::with_login();
    let li = AccountView {
        name: "li".into(),
        subject: "li@example.org".into(),
        groups: ["sre".to_owned()].into(),
        ..AccountView::default()
    };
    controller.says("GET /accounts/li", ok(&li));
    controller.says("PUT /accounts/li", ok(&li));
    controller.jitctl("accounts set li --group dba").good();
    let sent = controller.asked().last().unwrap().json();
    assert_eq!(sent["groups"], json!(["dba", "sre"]));
    controller.jitctl("accounts set bo --group dba").fails(64, "say --subject");
}

#[test]
fn a_public_key_is_registered_under_its_own_id() {
    let controller = Controller::with_login();
    controller.jitctl("keygen --algorithm ed25519 --out li").good();
    let pem = std::fs::read_to_string(controller.file("li.pub.pem")).unwrap();
    let id = PublicKey::from_pem(&pem).unwrap().key_id();
    let view = AccountKeyView {
        key_id: id.clone(),
        account: "li".into(),
        algorithm: "Ed25519".into(),
        state: "valid".into(),
        ..AccountKeyView::default()
    };
    let path = format!("/accounts/li/keys/{id}");
    controller.says(&format!("PUT {path}"), ok(&view));
    let said = controller.jitctl("accounts keys add li --public-key li.pub.pem");
    assert!(said.out.contains(&id) && said.out.contains("valid"), "{said:?}");
    assert_eq!(controller.asked().last().unwrap().json(), json!({ "public_key": pem }));
    // The private half never leaves.
    controller.jitctl("accounts keys add li --public-key li.key").fails(78, "PUBLIC KEY");
    let before = controller.asked().len();
    controller.jitctl("accounts keys add li --public-key none.pem").fails(78, "none.pem");
    assert_eq!(controller.asked().len(), before);
}

#[test]
fn a_lying_controller_puts_nothing_into_a_hosts_configuration() {
    let controller = Controller::with_login();
    let key = |name: &str| {
        controller.jitctl(&format!("keygen --algorithm p256 --out {name}")).good();
        let pem = std::fs::read_to_string(controller.file(&format!("{name}.pub.pem"))).unwrap();
        (PublicKey::from_pem(&pem).unwrap().key_id(), pem)
    };
    let ((id, pem), (_, other)) = (key("cy"), key("eve"));
    let sha256 = PublicKey::from_pem(&pem).unwrap().sha256();
    assert!(sha256.starts_with(&id) && sha256.len() == 64, "{sha256}");
    let section = format!(
        "# SHA-256 of the key: {sha256}\n[[approver]]\nid = \"cy-{id}\"\npublic_key = \"{id}.pem\"\nrp_id = \"jit.example.org\"\n\
         origins = [\"https://jit.example.org:8443\"]\n"
    );
    let honest = PasskeyView {
        key_id: id.clone(),
        public_key: pem.clone(),
        approver: section.clone(),
        ..PasskeyView::default()
    };
    let says = |view: &PasskeyView| {
        controller.says("GET /accounts/cy/passkeys", page(&[view], None));
    };
    let bare = format!("accounts passkeys approver cy {id}");
    // jitctl calls another host than that of the pages: they have to be named.
    says(&honest);
    controller.jitctl(&bare).fails(77, "add --origin https://jit.example.org:8443;");
    let ask = format!("{bare} --origin https://jit.example.org:8443");
    assert_eq!(controller.jitctl(&ask).good(), section);
    assert_eq!(controller.jitctl(&format!("{ask} --public-key")).good(), pem);

    // More around the same key, and names of its own, go no further.
    says(&PasskeyView {
        public_key: format!("[[signer]]\n{pem}[[signer]]\n"),
        approver: format!(
            "{}[[signer]]\nid = \"eve\"\npublic_key = \"eve.pem\"\n",
            section.replace("cy-", "eve-").replace(&format!("{id}.pem"), "eve.pem")
        ),
        ..honest.clone()
    });
    assert_eq!(controller.jitctl(&ask).good(), section);
    assert_eq!(controller.jitctl(&format!("{ask} --public-key")).good(), pem);

    // What cannot be true is refused, and nothing is printed.
    let with = |public_key: &str, approver: &str| PasskeyView {
        public_key: public_key.into(),
        approver: approver.into(),
        ..honest.clone()
    };
    for (lie, why) in [
        (with(&other, &section), "its public key has the id "),
        (with("[[signer]]\n", &section), "its public key: "),
        (with(&pem, "[[signer]]\nid = \"eve\"\n"), "not one [[approver]]"),
        (with(&pem, &format!("{section}{section}")), "not one [[approver]]"),
        (with(&pem, &section.replace("https:", "http:")), "is no origin of"),
        (with(&pem, "\u{1b}[2J"), "its section for hosts: "),
        // Pages of somebody else, who has a name in the same domain.
        (
            with(&pem, &section.replace(":8443\"", ":8443\", \"https://evil.jit.example.org\"")),
            "it names pages at https://evil.jit.example.org, and jitctl calls 127.0.0.1.",
        ),
    ] {
        says(&lie);
        for ask in [ask.clone(), format!("{ask} --public-key")] {
            let said = controller.jitctl(&ask);
            assert!(said.out.is_empty() && !said.err.contains('\u{1b}'), "{lie:?}: {said:?}");
            said.fails(77, why);
        }
    }
}

#[test]
fn the_audit_is_read_to_its_end_a_line_a_record() {
    let controller = Controller::with_login();
    let record = |seq| AuditView { seq, event: "request_submitted".into(), ..AuditView::default() };
    let (first, second) = (page(&[record(1), record(2)], Some("2")), page(&[record(3)], None));
    controller.answers("GET /audit", [first, second, page(&[(); 0], None)]);
    let said = controller.jitctl("audit --json").good();
    let seqs: Vec<_> = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_i64().unwrap())
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
    let asked = controller.asked();
    assert!(asked[1].query.contains("after=2") && asked[2].query.contains("after=3"), "{asked:?}");
}

#[test]
fn an_answer_of_another_kind_is_named() {
    let controller = Controller::with_login();
    controller.says("GET /rules", ok(&json!({"hello": 1})));
    controller.jitctl("rules show").fails(69, "does not understand");
    controller.says("GET /rules", problem(200, "", ""));
    controller.jitctl("rules show").fails(69, "does not understand");
}
