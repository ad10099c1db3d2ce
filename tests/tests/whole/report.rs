//! What hosts say of the use of a grant, in the report of a controller.

use std::{thread, time::Duration};

use jit_client::controller::types::RequestView;
use jit_tests::controller::said;
use serde_json::Value;

use crate::asked::stage;

#[test]
fn a_host_where_nobody_came_in_is_reported_and_one_that_was_used_is_not() {
    // On hosts of developers nobody must agree.
    let (stage, ana, _) = stage(None, &["web-1", "web-2"], "dev");
    stage.login(&stage.client, &ana);
    let ask =
        ["request", "web-1", "web-2", "--port", "22", "--for", "30m", "--why", "a look", "--json"];
    let asked = stage.jitctl(&stage.client, &ana, &ask);
    assert_eq!(asked.status.code(), Some(0), "{}", said(&asked));
    let asked: RequestView = serde_json::from_slice(&asked.stdout).unwrap();
    let open = ana.settled(&asked.id);
    assert_eq!((open.state.as_str(), open.counts.open), ("open", 2), "{open:#?}");
    assert!(stage.client_gets_in(0, 22), "{}", stage.host(0).log());
    let report = || {
        let period = ["--from", "2020-01-01", "--to", "2100-01-01"];
        let shown = stage.run_controller(&[&["report", "--json"], &period[..]].concat());
        assert_eq!(shown.status.code(), Some(0), "{}", said(&shown));
        serde_json::from_slice::<Value>(&shown.stdout).unwrap()
    };
    let mut last = Value::Null;
    for _ in 0..120 {
        last = report();
        let note = last["tables"]["unused"]["note"].as_str().unwrap();
        if note.starts_with("2 openings on hosts: 1 were used, 1 were not") {
            let rows = last["tables"]["unused"]["rows"].as_array().unwrap();
            assert_eq!(rows.len(), 1, "{last:#}");
            assert_eq!(rows[0]["request"], asked.id);
            assert_eq!(rows[0]["hosts_without_a_connection"], "web-2");
            assert_eq!(rows[0]["how_many"], "1 of 2");
            return;
        }
        thread::sleep(Duration::from_millis(500));
    }
    panic!("{last:#}");
}
