//! Defender's API over real hosts, by Microsoft's own client: what is put protects a port, what is
//! initiated opens it, and its end closes it. Policies go out into a file and come back the same.

mod changed;

use std::{
    fs,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use jit_client::controller::{
    call::Call,
    types::{Page, RequestSummary},
};
use jit_tests::{
    controller::{API_PORT, CLIENT, CONTROLLER, Stage, people::Person, said},
    netns::Namespace,
    python::{python, script},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    databases::postgres,
    rollouts::{allow_policies, stage},
};

const LONG: Duration = Duration::from_secs(180);
const SUBSCRIPTION: &str = "20ff7fc3-e762-44dd-bd96-b71116dcdc23";
/// A port that no host protects by itself.
const PORT: u16 = 2222;

fn machine(name: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.Compute/\
         virtualMachines/{name}"
    )
}

/// Microsoft's client, as this person, on this machine.
fn client(stage: &Stage, on: &Namespace, person: &Person, line: &str) -> Output {
    let mut command = Command::new(python());
    command.arg(script("defender.py")).env("JIT_TOKEN", &person.token);
    command.args(["--url", &format!("https://{CONTROLLER}:{API_PORT}"), "--ca"]);
    command.arg(stage.own("pki/ca.pem")).args(["--subscription", SUBSCRIPTION]);
    command.args(line.split(' '));
    on.run(|| command.output().unwrap())
}

#[track_caller]
fn good(stage: &Stage, on: &Namespace, person: &Person, line: &str) -> Value {
    let output = client(stage, on, person, line);
    assert!(output.status.success(), "{line}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn refused(stage: &Stage, on: &Namespace, person: &Person, line: &str) -> String {
    let output = client(stage, on, person, line);
    assert_eq!(output.status.code(), Some(77), "{line}: {}", said(&output));
    String::from_utf8(output.stderr).unwrap()
}

/// The policy, by the API itself: a client in Python starts slowly.
#[track_caller]
fn policy(person: &Person, name: &str) -> Value {
    let path = format!(
        "subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.Security/locations/\
         westeurope/jitNetworkAccessPolicies/{name}"
    );
    let call = Call::get(path.split('/')).at_root();
    person.get(&call.query("api-version", "2020-01-01"))
}

/// Waits until a policy is like this.
#[track_caller]
fn until(stage: &Stage, name: &str, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LONG;
    loop {
        let seen = policy(&stage.admin, name);
        if condition(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "not {what}: {seen:#}\n{}", stage.log());
        thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn until_provisioned(stage: &Stage, name: &str, state: &str) -> Value {
    until(stage, name, state, |seen| seen["properties"]["provisioningState"] == state)
}

/// Status and reason of the newest request.
fn words(policy: &Value) -> (&str, &str) {
    let port = &policy["properties"]["requests"][0]["virtualMachines"][0]["ports"][0];
    (port["status"].as_str().unwrap_or_default(), port["statusReason"].as_str().unwrap_or_default())
}

#[track_caller]
fn until_words(stage: &Stage, status: &str, reason: &str) {
    until(stage, "default", status, |seen| words(seen) == (status, reason));
}

/// The request that waits for an approval.
fn approve_pending(li: &Person) -> String {
    let list: Page<RequestSummary> = li.get(&Call::get(["requests"]).query("state", "pending"));
    let [one] = &list.items[..] else { panic!("one waits: {list:#?}") };
    assert_eq!((one.requester.as_str(), one.reason.as_str()), ("ana@example.org", "disk full"));
    li.approve(&one.id);
    one.id.clone()
}

#[track_caller]
fn until_closed(stage: &Stage) {
    let end = Instant::now() + LONG;
    while stage.client_opens(0, PORT) {
        assert!(Instant::now() < end, "it stays open\n{}", stage.host(0).log());
    }
}

#[test]
fn microsofts_client_protects_opens_and_closes_a_port_of_a_host() {
    whole_life(None);
}

#[test]
fn the_same_with_postgres() {
    let database = postgres();
    whole_life(Some(&database.url));
}

fn whole_life(database: Option<&str>) {
    let mut stage = stage(database, &["web-1"], "");
    stage.host(0).serve(PORT);
    allow_policies(&mut stage);
    let ana = stage.person("ana", "ana@example.org", &["sre"], &["read", "request"]);
    let li = stage.person("li", "li@example.org", &["sre"], &["read", "approve"]);
    let ana = ana.at(&stage.client);
    let (hub, there) = (&stage.hub, &stage.client);
    assert!(stage.client_gets_in(0, PORT), "nobody protects it");

    let put = format!("put --port {PORT} --machine {}", machine("web-1"));
    assert!(refused(&stage, there, &ana, &put).starts_with("AuthorizationFailed: "));
    let answer = good(&stage, hub, &stage.admin, &put);
    assert_eq!(answer["properties"]["provisioningState"], "Updating");
    let provisioned = until_provisioned(&stage, "default", "Succeeded");
    assert!(!stage.client_opens(0, PORT), "{provisioned:#}\n{}", stage.host(0).log());
    assert_eq!(good(&stage, there, &ana, "list"), json!([provisioned]));
    // What the host protected before, it protects as before.
    let ports = stage.admin.host("web-1").ports;
    for port in [22, 443] {
        assert!(!stage.client_opens(0, port), "{ports:?}");
    }

    let initiate = |more: &str| {
        format!("initiate --port {PORT} --machine {} {more}", machine("web-1")).trim().to_owned()
    };
    for outside in ["--seconds 7200", "--seconds 60 --machine /x/virtualMachines/web-2"] {
        let why = refused(&stage, there, &ana, &initiate(outside));
        assert!(
            why.starts_with(
                "BadRequest: The given access request is not a subset of policy 'default'."
            ),
            "{why}"
        );
    }
    // The prefix is left out: it opens to the caller's address.
    let answer = good(&stage, there, &ana, &initiate("--seconds 60"));
    let port = &answer["virtualMachines"][0]["ports"][0];
    assert_eq!(
        (&port["status"], &port["allowedSourceAddressPrefix"]),
        (&json!("Initiating"), &json!(CLIENT))
    );
    until_words(&stage, "Initiating", "UserRequested");
    assert!(!stage.client_opens(0, PORT), "nobody has agreed yet");
    approve_pending(&li);
    until_words(&stage, "Initiated", "UserRequested");
    assert!(stage.client_gets_in(0, PORT), "{}", stage.host(0).log());
    assert!(!stage.stranger_opens(0, PORT));
    // The end closes it.
    until_words(&stage, "Revoked", "Expired");
    until_closed(&stage);

    // A person who revokes closes it too.
    good(&stage, there, &ana, &initiate(&format!("--seconds 600 --source {CLIENT}")));
    let id = approve_pending(&li);
    until_words(&stage, "Initiated", "UserRequested");
    assert!(stage.client_gets_in(0, PORT));
    ana.revoke(&id);
    until_words(&stage, "Revoked", "UserRequested");
    until_closed(&stage);

    out_and_in_again(&stage);
    killed(&mut stage);
}

/// Policies go into a file, and from the file come the same policies.
fn out_and_in_again(stage: &Stage) {
    stage.login(&stage.hub, &stage.admin);
    let jitctl = |line: &str| {
        let arguments: Vec<_> = line.split(' ').collect();
        let output = stage.jitctl(&stage.hub, &stage.admin, &arguments);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        (output.status.code().unwrap(), text, said(&output))
    };
    let (code, exported, all) = jitctl("export-defender");
    assert_eq!(code, 0, "{all}");
    let file = stage.path("policies.json");
    fs::write(&file, &exported).unwrap();
    assert_eq!(good(stage, &stage.hub, &stage.admin, "delete"), Value::Null);
    let end = Instant::now() + LONG;
    while !stage.client_opens(0, PORT) {
        assert!(Instant::now() < end, "its ports are what they were before\n{}", stage.log());
    }
    assert_eq!(jitctl("export-defender").1.trim(), "[]");

    let import = format!("import-defender {}", file.display());
    let (code, _, all) = jitctl(&import);
    assert!(code == 64 && all.contains("add --yes"), "{code} {all}");
    let (code, text, all) = jitctl(&format!("{import} --dry-run"));
    assert!(code == 0 && text.contains("web-1  2222/TCP  PT1H"), "{code} {all}");
    assert_eq!(jitctl("export-defender").1.trim(), "[]", "a trial changes nothing");
    let (code, text, all) = jitctl(&format!("{import} --yes"));
    assert!(code == 0 && text.contains("jitNetworkAccessPolicies/default: Updating"), "{all}");
    until_provisioned(stage, "default", "Succeeded");
    until_closed(stage);
    assert_eq!(jitctl("export-defender").1, exported);

    // What the host does not take has failed, and says so; a host that nobody knows is listed.
    let mut other: Value = serde_json::from_str(&exported).unwrap();
    let path = other[0]["id"].as_str().unwrap().replace("/default", "/other");
    other[0]["id"] = json!(path);
    other[0]["name"] = json!("other");
    other[0]["properties"]["virtualMachines"][0]["ports"][0]["number"] = json!(5000);
    let mut unknown = other[0]["properties"]["virtualMachines"][0].clone();
    unknown["id"] = json!(machine("web-9"));
    other[0]["properties"]["virtualMachines"].as_array_mut().unwrap().push(unknown);
    fs::write(&file, other.to_string()).unwrap();
    let (code, text, all) = jitctl(&format!("{import} --yes"));
    assert_eq!(code, 1, "{all}");
    assert!(text.contains("virtualMachines[1]: no host is the machine web-9"), "{text}");
    until_provisioned(stage, "other", "Failed");
    assert_eq!(good(stage, &stage.hub, &stage.admin, "delete --name other"), Value::Null);
    // What is good is not hindered by it.
    until_provisioned(stage, "default", "Succeeded");
}

/// What was put comes to the host although the controller is killed before it is there.
fn killed(stage: &mut Stage) {
    good(stage, &stage.hub, &stage.admin, "delete");
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(700));
        stage.end_controller(Signal::KILL);
        stage.start_controller(&[]);
        let put = format!("put --port {PORT} --machine {}", machine("web-1"));
        good(stage, &stage.hub, &stage.admin, &put);
    }
    stage.end_controller(Signal::KILL);
    stage.start_controller(&[]);
    until_provisioned(stage, "default", "Succeeded");
    until_closed(stage);
}
