//! Revocations: what is asked before one is made, what is sent, and what the exit code says of hosts.

use jit_client::controller::types::{
    RevocationHostView, RevocationPreview, RevocationView, RevokedWhat,
};
use serde_json::json;

use crate::server::{Controller, ok, page, problem};

const MAKE: &str = "revocations make --group web --requester ana --cut --reason left";

fn view(state: &str, refused: u64, waiting: u64) -> RevocationView {
    RevocationView {
        id: "01C".into(),
        state: state.into(),
        every_host: true,
        what: RevokedWhat { all: true, ..RevokedWhat::default() },
        delivered: 2,
        refused,
        waiting,
        ..RevocationView::default()
    }
}

#[test]
fn what_ends_is_shown_before_anything_is_sent_that_ends_it() {
    let controller = Controller::with_login();
    let preview = RevocationPreview { hosts: 3, requests: vec!["01R".into()] };
    controller.says("POST /revocations", ok(&preview));
    let said = controller.jitctl(&format!("{MAKE} --preview")).good();
    assert!(said.contains("it goes to 3 hosts, and ends 1 request 01R"), "{said}");
    controller.jitctl(MAKE).fails(64, "Revoke on 3 hosts now?");
    assert!(controller.asked().iter().all(|one| one.query == "preview=true"));
    controller.says("POST /revocations", ok(&view("delivering", 0, 3)));
    let said = controller.jitctl(&format!("{MAKE} --yes")).good();
    assert!(said.contains("jitctl revocations show 01C"), "{said}");
    let sent = controller.asked().pop().unwrap();
    assert_eq!((sent.query.as_str(), sent.json()["cut"].as_bool()), ("", Some(true)));
    assert_eq!(sent.json()["groups"], json!(["web"]));
    assert_eq!(sent.json()["what"]["requester"], "ana");
    // Where and what must be said, each once.
    controller.jitctl("revocations make --all --reason x").fails(64, "--every-host");
    controller.jitctl("revocations make --every-host --reason x").fails(64, "--requester");
    let both = "revocations make --every-host --host web-1 --all --reason x";
    controller.jitctl(both).fails(64, "cannot be used with");
    let refused = problem(403, "not_permitted", "the rules do not let you revoke on web-1");
    controller.says("POST /revocations", refused);
    controller.jitctl(&format!("{MAKE} --yes")).fails(77, "not_permitted");
}

#[test]
fn the_exit_code_of_show_is_that_of_its_worst_host_which_is_named() {
    let controller = Controller::with_login();
    let host = |host: &str, answer: &str, word: &str| RevocationHostView {
        host: host.into(),
        answer: answer.into(),
        word: word.into(),
        ..RevocationHostView::default()
    };
    let hosts = "GET /revocations/01C/hosts";
    controller.says("GET /revocations/01C", ok(&view("delivered", 0, 0)));
    controller.says(hosts, page(&json!([]), None));
    let said = controller.jitctl("revocations show 01C").good();
    assert!(said.contains("all on every host"), "{said}");
    for (refused, exit) in [(0, 1), (1, 77)] {
        controller.says("GET /revocations/01C", ok(&view("delivering", refused, 1)));
        let of = [
            page(&json!([host("web-1", "refused", "unknown_key")]), None),
            page(&json!([host("web-2", "waiting", "")]), None),
        ];
        controller.answers(hosts, of);
        let said = controller.jitctl("revocations show 01C");
        assert_eq!(said.exit, Some(exit), "{said:?}");
        assert!(said.out.contains("unknown_key") && said.out.contains("web-2"), "{said:?}");
    }
    let asked = controller.asked();
    assert!(asked.iter().any(|one| one.query.contains("answer=refused")), "{asked:?}");
}
