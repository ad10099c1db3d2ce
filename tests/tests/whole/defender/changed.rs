//! What an administrator changes at a port that Defender has stays, whatever Defender's API does then; what is
//! the host's own returns.

use std::{thread, time::Instant};

use jit_client::controller::{
    call::Call,
    types::{HostPortView, PolicyInput, PolicyView, RolloutView},
};
use jit_tests::controller::{CLIENT, Stage, people::Person, said};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    LONG, PORT, SUBSCRIPTION, approve_pending, machine, until_closed, until_provisioned,
    until_words,
};
use crate::{
    databases::postgres,
    rollouts::{CEILING, allow_policies, input_of, stage, until_over},
};

const HOUR_MS: i64 = 3_600_000;

/// The path of the policy `default`, and what follows it.
fn path(more: &str) -> Vec<String> {
    let path = format!(
        "subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.Security/locations/\
         westeurope/jitNetworkAccessPolicies/default{more}"
    );
    path.split('/').map(str::to_owned).collect()
}

fn dated(call: Call) -> Call {
    call.at_root().query("api-version", "2020-01-01")
}

/// Puts the policy with these ports for an hour, and waits until the host has them.
#[track_caller]
fn put(stage: &Stage, ports: &[u16]) {
    let port = |number: &u16| {
        json!({
            "number": number, "protocol": "TCP", "allowedSourceAddressPrefix": "*",
            "maxRequestAccessDuration": "PT1H",
        })
    };
    let ports: Vec<_> = ports.iter().map(port).collect();
    let body = json!({
        "kind": "Basic",
        "properties": { "virtualMachines": [{ "id": machine("web-1"), "ports": ports }] },
    });
    let answer: Value = stage.admin.get(&dated(Call::put(path(""))).json(&body));
    assert_eq!(answer["properties"]["provisioningState"], "Updating", "{answer:#}");
    until_provisioned(stage, "default", "Succeeded");
}

fn initiate(port: u16, seconds: i64) -> Call {
    let ends_ms = jit_controller::clock::now_ms() + seconds * 1000;
    let port = json!({
        "number": port, "endTimeUtc": jit_proto::WallTime(ends_ms).to_string(),
        "allowedSourceAddressPrefix": CLIENT,
    });
    let body = json!({
        "virtualMachines": [{ "id": machine("web-1"), "ports": [port] }],
        "justification": "disk full",
    });
    dated(Call::post(path("/initiate"))).json(&body)
}

/// What the host says of its ports: each with the longest time and the signatures that a grant needs.
fn ports(stage: &Stage) -> Vec<(String, i64, u32)> {
    let seen = |port: HostPortView| (port.port, port.max_duration_ms, port.approvals);
    stage.admin.host("web-1").ports.into_iter().map(seen).collect()
}

/// Waits until the host protects exactly this.
#[track_caller]
fn until_ports(stage: &Stage, what: &str, wanted: &[(&str, i64, u32)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(port, longest, approvals)| (format!("{port}/tcp"), *longest, *approvals))
        .collect();
    let end = Instant::now() + LONG;
    loop {
        let seen = ports(stage);
        if seen == wanted {
            return;
        }
        assert!(Instant::now() < end, "{what}: {seen:?} and not {wanted:?}\n{}", stage.log());
        thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// An administrator brings a policy: each port with the hours and signatures.
#[track_caller]
fn bring(stage: &Stage, sections: &[(u16, u32, u32)]) {
    let section = |(port, hours, approvals): &(u16, u32, u32)| {
        format!(
            "[[port]]\nport = {port}\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n\
             max_duration = \"{hours}h\"\napprovals = {approvals}\n"
        )
    };
    let text = sections.iter().map(section).collect();
    let input = PolicyInput { text, justification: "CHG-1".into() };
    let kept: PolicyView = stage.admin.get(&Call::post(["policies"]).json(&input));
    let begun: RolloutView = stage.admin.get(&Call::post(["rollouts"]).json(&input_of(&kept.id)));
    let over = until_over(stage, &begun.id);
    assert_eq!(over.state, "done", "{over:#?}");
}

/// A wish by Defender's API, opened by li, and open for the client alone.
#[track_caller]
fn opened(stage: &Stage, ana: &Person, li: &Person, seconds: i64) -> String {
    // A connection that was idle has ended: a POST is not sent twice.
    ana.get::<Value>(&Call::get(["me"]));
    let answer: Value = ana.get(&initiate(PORT, seconds));
    assert_eq!(answer["virtualMachines"][0]["ports"][0]["status"], "Initiating", "{answer:#}");
    assert!(!stage.client_opens(0, PORT), "nobody has agreed yet");
    let id = approve_pending(li);
    until_words(stage, "Initiated", "UserRequested");
    assert!(stage.client_gets_in(0, PORT), "{}", stage.host(0).log());
    assert!(!stage.stranger_opens(0, PORT));
    id
}

/// Has the host trust another key for grants: without it no port can ask for two.
fn trust_a_second_key(stage: &mut Stage) {
    let out = stage.path("second").display().to_string();
    let keygen = ["keygen", "--algorithm", "p256", "--out", &out];
    let made = stage.jitctl(&stage.hub, &stage.admin, &keygen);
    assert!(made.status.success(), "{}", said(&made));
    let signer = format!(
        "{CEILING}\n[[signer]]\nid = \"second\"\npublic_key = \"{out}.pub.pem\"\nsigns = [\"grant\"]\n"
    );
    stage.host(0).configure("web-1", "\"0.0.0.0/0\", \"::/0\"", &signer);
    stage.host_mut(0).end(Signal::TERM);
    stage.host_mut(0).start();
    stage.wait_until_enforcing("web-1");
}

#[test]
fn what_an_administrator_changed_at_defenders_ports_stays() {
    changes(None);
}

#[test]
fn the_same_with_postgres() {
    let database = postgres();
    changes(Some(&database.url));
}

fn changes(database: Option<&str>) {
    let mut stage = stage(database, &["web-1"], "");
    trust_a_second_key(&mut stage);
    stage.host(0).serve(PORT);
    allow_policies(&mut stage);
    let ana = stage.person("ana", "ana@example.org", &["sre"], &["read", "request"]);
    let li = stage.person("li", "li@example.org", &["sre"], &["read", "approve"]);
    let ana = ana.at(&stage.client);
    let own = ports(&stage);
    let usual = own.first().expect("the host protects something").1;
    assert!(usual != HOUR_MS && usual != 2 * HOUR_MS, "{own:?}");
    until_ports(&stage, "its own", &[("22", usual, 1), ("443", usual, 1)]);

    put(&stage, &[22, 443, PORT]);
    until_ports(&stage, "put", &[("22", HOUR_MS, 1), ("443", HOUR_MS, 1), ("2222", HOUR_MS, 1)]);
    until_closed(&stage);

    // Two signatures for SSH: Defender has no word for it.
    bring(&stage, &[(22, 1, 2), (443, 1, 1), (PORT, 1, 1)]);
    let stricter = [("22", HOUR_MS, 2), ("443", HOUR_MS, 1), ("2222", HOUR_MS, 1)];
    until_ports(&stage, "an administrator's", &stricter);
    until_provisioned(&stage, "default", "Succeeded");

    // Too long, another port, ended already.
    for call in [initiate(PORT, 7200), initiate(5000, 60), initiate(PORT, -60)] {
        let error = ana.call::<Value>(&call).unwrap_err().to_string();
        assert!(error.contains("is not a subset of policy 'default'"), "{error}");
    }
    // It opens, and its end closes it.
    opened(&stage, &ana, &li, 60);
    until_words(&stage, "Revoked", "Expired");
    until_closed(&stage);

    // Put again it keeps what the administrator wants, and what is dropped returns to what it was: the
    // host's own, or the administrator's.
    put(&stage, &[22, PORT]);
    let dropped = [("22", HOUR_MS, 2), ("443", usual, 1), ("2222", HOUR_MS, 1)];
    until_ports(&stage, "without 443", &dropped);
    put(&stage, &[PORT]);
    let dropped = ports(&stage);
    assert_eq!(dropped.first(), Some(&("22/tcp".to_owned(), HOUR_MS, 2)), "{dropped:?}");
    let id = opened(&stage, &ana, &li, 600);
    ana.revoke(&id);
    until_words(&stage, "Revoked", "UserRequested");
    until_closed(&stage);

    // The policy goes while the administrator's at another of its ports is newer.
    put(&stage, &[443, PORT]);
    bring(&stage, &[(22, 1, 2), (443, 2, 2), (PORT, 1, 1)]);
    until_ports(
        &stage,
        "an administrator's again",
        &[("22", HOUR_MS, 2), ("443", 2 * HOUR_MS, 2), ("2222", HOUR_MS, 1)],
    );
    stage.admin.done(&dated(Call::delete(path(""))));
    // Nobody else wants 2222: it was open before.
    until_ports(&stage, "deleted", &[("22", HOUR_MS, 2), ("443", 2 * HOUR_MS, 2)]);
    let end = Instant::now() + LONG;
    while !stage.client_opens(0, PORT) {
        assert!(Instant::now() < end, "it was open to all before Defender\n{}", stage.log());
    }
    for port in [22, 443] {
        assert!(!stage.client_opens(0, port), "{port}");
    }
    assert_eq!(ana.refused(&initiate(PORT, 60)), "not_found");
}
