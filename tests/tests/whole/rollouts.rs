//! Policies in waves, as an administrator brings them: by `jitctl` over HTTPS, to real agents, also when the
//! controller is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

use jit_client::controller::{
    call::Call,
    types::{
        AddressView, Page, PolicyInput, PolicyPreview, PolicyView, RolloutHostView, RolloutInput,
        RolloutView,
    },
};
use jit_tests::{
    controller::{CLIENT, Stage, hosts::PORTS},
    random::Random,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::databases::postgres;

const LONG: Duration = Duration::from_secs(120);
pub(crate) const CEILING: &str = r#"
[ceiling]
arm = ["22", "443", "2222", "3001-3003"]
sources = ["0.0.0.0/0", "::/0"]
drain = true
"#;
/// The line of the configuration that `init` writes as a comment.
const OFF: &str = "\n# policies = true\n";

/// The protected ports as before, and 2222, which needs a confirmation.
pub(crate) fn policy() -> String {
    let port = |port: &u16| {
        format!(
            "[[port]]\nport = {port}\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n"
        )
    };
    PORTS.iter().chain([&2222]).map(port).collect()
}

/// A stage with hosts that take policies, the first of them a canary. `strict`: one that takes none.
pub(crate) fn stage(database: Option<&str>, hosts: &[&str], strict: &str) -> Stage {
    let mut stage = Stage::new(database);
    for (number, id) in hosts.iter().enumerate() {
        let env = if number == 0 { "canary" } else { "prod" };
        assert_eq!(stage.add_host(id, &[("env", env)]), number);
        let ceiling = if *id == strict { "" } else { CEILING };
        stage.host(number).configure(id, "\"0.0.0.0/0\", \"::/0\"", ceiling);
        stage.host_mut(number).spawn();
    }
    for number in 0..hosts.len() {
        stage.host_mut(number).wait();
    }
    for id in hosts {
        stage.wait_until_enforcing(id);
    }
    stage
}

/// Has the signer sign policies, by the line that `init` wrote.
pub(crate) fn allow_policies(stage: &mut Stage) {
    stage.end_controller(Signal::TERM);
    let file = stage.own("controller.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(OFF), "{text}");
    fs::write(&file, text.replace(OFF, "\npolicies = true\n")).unwrap();
    stage.start_controller(&[]);
    // The client finds out here that its connection has ended: a POST is not sent twice.
    stage.admin.host(stage.host(0).id());
}

/// `jitctl` of the administrator: exit code, and what it printed on both.
fn jitctl(stage: &Stage, line: &str) -> (i32, String) {
    let arguments: Vec<_> = line.split(' ').collect();
    let output = stage.jitctl(&stage.hub, &stage.admin, &arguments);
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[track_caller]
fn good(stage: &Stage, line: &str) -> String {
    let (code, text) = jitctl(stage, line);
    assert_eq!(code, 0, "{line}: {text}");
    text
}

#[test]
fn an_administrator_brings_a_policy_to_hosts_in_waves() {
    let hosts = ["web-1", "web-2", "web-3"];
    let mut stage = stage(None, &hosts, "web-3");
    stage.login(&stage.hub, &stage.admin);
    let file = stage.path("policy.toml");
    fs::write(&file, policy()).unwrap();
    let file = file.display();
    assert_eq!(good(&stage, "rollouts"), "no rollouts\n");

    // A mistake in the policy has its line, and begins nothing.
    fs::write(stage.path("bad.toml"), "[[port]]\nprot = 22\n").unwrap();
    let bad = stage.path("bad.toml");
    let (code, text) =
        jitctl(&stage, &format!("rollouts start {} --why CHG-1 --wave all --yes", bad.display()));
    assert!(code == 77 && text.contains("line 2") && text.contains("prot"), "{code} {text}");
    // Which hosts, before anything is kept or changed.
    let start = format!(
        "rollouts start {file} --why CHG-1 --wave env=canary --wave all --pause 0s \
         --confirm-within 1m"
    );
    let text = good(&stage, &format!("{start} --preview"));
    assert!(text.contains("1     env=canary  1      web-1\n"), "{text}");
    assert!(text.contains("2     all         2      web-2, web-3\n"), "{text}");
    assert!(good(&stage, "policies").starts_with("no policies"), "a preview keeps nothing");
    let (code, text) = jitctl(&stage, &start);
    assert!(code == 64 && text.contains("add --yes"), "{code} {text}");

    // A new controller signs no policies: it halts at the first host, and says what to write where.
    let (code, text) = jitctl(&stage, &format!("{start} --yes"));
    let written = stage.own("controller.toml");
    assert_eq!(code, 77, "{text}");
    for says in [
        "halted: web-1 is refused: signer_refused: policies_off: ",
        "`policies = true` under [signer.limits]",
        &written.display().to_string(),
        "systemctl restart jit-controller",
        "jitctl rollouts resume ",
    ] {
        assert!(text.replace("\n           ", " ").contains(says), "{says:?} is not in {text}");
    }
    allow_policies(&mut stage);
    let listed: Vec<RolloutView> = serde_json::from_str(&good(&stage, "rollouts --json")).unwrap();
    let id = listed[0].id.clone();

    // It goes on, and halts at the host that takes no policies.
    let (code, text) = jitctl(&stage, &format!("rollouts resume {id} --wait 2m"));
    println!("{text}");
    assert_eq!(code, 77, "{text}");
    assert!(text.contains("halted: web-3 is refused: "), "{text}");
    assert!(text.contains("wave 1 of 2: env=canary: 1 "), "progress: {text}");
    let shown: Value =
        serde_json::from_str(&good(&stage, &format!("rollouts show {id} --json"))).unwrap();
    let states: Vec<_> =
        shown["hosts"].as_array().unwrap().iter().map(|host| host["state"].clone()).collect();
    assert_eq!(states, ["applied", "applied", "refused"], "{shown:#}");
    assert_eq!(shown["state"], "halted");
    let policy = shown["policy"].as_str().unwrap();
    let (code, text) = jitctl(&stage, &format!("policies diff {policy} --host web-1 --host web-3"));
    assert!(code == 77 && text.contains("web-1") && text.contains("web-3"), "{code} {text}");

    // Its administrator allows it.
    stage.host(2).configure("web-3", "\"0.0.0.0/0\", \"::/0\"", CEILING);
    stage.host_mut(2).end(Signal::TERM);
    stage.host_mut(2).start();
    stage.wait_until_enforcing("web-3");
    let text = good(&stage, &format!("rollouts resume {id}"));
    assert!(text.contains("state      done\n"), "{text}");
    for number in 0..hosts.len() {
        let status = stage.host(number).status();
        assert_eq!(status["policy"]["version"], 1, "{status:#}");
    }
    let kept = good(&stage, &format!("policies show {policy}"));
    assert_eq!(kept.trim(), super::rollouts::policy().trim());

    // The same one again, given up while it waits; a watch of another terminal sees that.
    let again = format!("rollouts start --policy {policy} --wave env=canary --wave all --pause 1h");
    let (code, text) = jitctl(&stage, &format!("{again} --yes --wait 1s"));
    assert!(code == 69 && text.contains("jitctl rollouts watch "), "{code} {text}");
    let listed: Vec<RolloutView> =
        serde_json::from_str(&good(&stage, "rollouts --json --limit 1")).unwrap();
    let second = listed[0].id.clone();
    assert!(listed.len() == 1 && second != id);
    let (code, text) = jitctl(&stage, &format!("{again} --yes"));
    assert!(code == 77 && text.contains(&format!("rollout {second} goes on")), "{code} {text}");
    good(&stage, &format!("rollouts abort {second} --yes"));
    let (code, text) = jitctl(&stage, &format!("rollouts watch {second}"));
    assert!(code == 77 && text.contains("aborted: "), "{code} {text}");
    let (code, text) = jitctl(&stage, "policy show --controller https://jit.example.org");
    assert!(code == 64 && text.contains("jitctl rollouts start"), "{code} {text}");
}

#[test]
fn the_api_of_policies_and_addresses_speaks_to_hosts() {
    let mut stage = stage(None, &["web-1", "web-2"], "");
    allow_policies(&mut stage);
    let admin = &stage.admin;
    let input = PolicyInput { text: policy(), justification: "CHG-1".into() };
    let kept: PolicyView = admin.get(&Call::post(["policies"]).json(&input));
    let path = ["policies", &kept.id, "preview"];
    let preview: PolicyPreview = admin.get(&Call::get(path).query("host", "web-1"));
    assert_eq!((preview.reason.as_str(), preview.host.as_str()), ("ok", "web-1"));
    assert!(preview.changes.iter().any(|line| line.contains("2222")), "{preview:?}");
    assert_eq!(admin.refused(&Call::get(path).query("host", "web-9")), "not_found");
    let unknown = RolloutInput { policy: "01K".into(), waves: vec!["all".into()], ..input_of("") };
    assert_eq!(admin.refused(&Call::post(["rollouts"]).json(&unknown)), "not_found");
    let begun: RolloutView = admin.get(&Call::post(["rollouts"]).json(&input_of(&kept.id)));
    let done = until_over(&stage, &begun.id);
    assert_eq!(done.state, "done", "{done:#?}");
    // Nobody else may.
    let eve = stage.person("eve", "eve@example.org", &[], &["read", "request"]);
    for call in [
        Call::post(["policies"]).json(&input),
        Call::post(["rollouts"]).json(&input_of(&kept.id)),
        Call::post(["rollouts", &begun.id, "abort"]),
        Call::get(["rollouts", &begun.id, "hosts"]),
    ] {
        let word = eve.refused(&call);
        assert!(["forbidden", "scope_missing", "not_admin"].contains(&word.as_str()), "{word}");
    }
    // What the host has dropped from the client is shown to the client as his address.
    assert!(!stage.client_opens(0, 22));
    let there = admin.at(&stage.client);
    let ask = Call::get(["me", "address"]).query("host", "web-1").query("port", "22");
    let end = Instant::now() + LONG;
    let seen = loop {
        let seen: AddressView = there.get(&ask);
        if !seen.candidates.is_empty() || Instant::now() > end {
            break seen;
        }
        thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((seen.address.as_str(), seen.trouble.as_str()), (CLIENT, ""), "{seen:?}");
    assert!(seen.candidates.iter().any(|one| one.same && one.address == CLIENT), "{seen:?}");
    // A host that is down is named, not an error.
    stage.host_mut(0).end(Signal::KILL);
    stage.wait_for_condition("web-1", "unreachable");
    let seen: AddressView = stage.admin.get(&ask);
    assert!(seen.trouble.contains("web-1 was asked in vain: "), "{seen:?}");
}

pub(crate) fn input_of(policy: &str) -> RolloutInput {
    RolloutInput {
        policy: policy.into(),
        waves: vec!["all".into()],
        confirm: Some("5m".into()),
        pause_ms: Some(0),
        ..RolloutInput::default()
    }
}

/// A rollout when it does not go on any more.
#[track_caller]
pub(crate) fn until_over(stage: &Stage, id: &str) -> RolloutView {
    let end = Instant::now() + LONG;
    loop {
        let view: RolloutView = stage.admin.get(&Call::get(["rollouts", id]));
        if view.state != "running" {
            return view;
        }
        assert!(Instant::now() < end, "it does not end: {view:#?}\n{}", stage.log());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_wave_goes_on_after_kills_of_the_controller_and_no_host_gets_other_bytes() {
    kill_in_a_wave(None);
}

#[test]
fn a_wave_goes_on_after_kills_with_postgres() {
    let database = postgres();
    kill_in_a_wave(Some(&database.url));
}

fn kill_in_a_wave(database: Option<&str>) {
    let names: Vec<_> = (1..=8).map(|number| format!("web-{number}")).collect();
    let hosts: Vec<_> = names.iter().map(String::as_str).collect();
    let mut stage = stage(database, &hosts, "");
    allow_policies(&mut stage);
    let now = u64::try_from(jit_controller::clock::now_ms()).unwrap();
    let seed = std::env::var("JIT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(now);
    println!("JIT_TEST_SEED={seed}");
    let mut random = Random::new(seed);
    let (mut kills, mut within) = (0, 0);
    for round in 1..=3_u64 {
        // Each round has other ports: a policy that is in force already would be no change.
        let more = 3000 + round;
        let text = format!("{}{}", policy(), policy().replace("2222", &more.to_string()));
        let text = text.split("[[port]]").collect::<BTreeSet<_>>();
        let text = text.into_iter().collect::<Vec<_>>().join("[[port]]");
        let input = PolicyInput { text, justification: format!("CHG-{round}") };
        let kept: PolicyView = stage.admin.get(&Call::post(["policies"]).json(&input));
        let begun: RolloutView =
            stage.admin.get(&Call::post(["rollouts"]).json(&input_of(&kept.id)));
        let over = loop {
            let view: RolloutView = stage.admin.get(&Call::get(["rollouts", &begun.id]));
            if view.state != "running" {
                break view;
            }
            if kills < 12 {
                let pause = u64::try_from(random.below(250)).unwrap();
                thread::sleep(Duration::from_millis(pause));
                stage.end_controller(Signal::KILL);
                kills += 1;
                stage.start_controller(&[]);
                let view: RolloutView = stage.admin.get(&Call::get(["rollouts", &begun.id]));
                within += u32::from(view.state == "running");
            } else {
                break until_over(&stage, &begun.id);
            }
        };
        assert_eq!(over.state, "done", "{over:#?}\n{}", stage.log());
        let page: Page<RolloutHostView> =
            stage.admin.get(&Call::get(["rollouts", &begun.id, "hosts"]));
        assert!(page.items.iter().all(|host| host.state == "applied"), "{page:#?}");
        // A second version would show that it was made and pushed again.
        for number in 0..hosts.len() {
            let policy = stage.host(number).status()["policy"].clone();
            assert_eq!(
                (&policy["version"], &policy["highest_version"]),
                (&Value::from(round), &Value::from(round)),
                "{policy:#}"
            );
        }
    }
    println!("{kills} kills, {within} of them within a rollout");
    assert!(within > 0, "no kill met a rollout");
    // What was signed for a host and version was signed with the same bytes.
    let mut signed: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
    for line in stage.admin.audit().into_iter().filter(|line| line.code == "P001") {
        let text = |name: &str| line.record[name].as_str().unwrap_or_default().to_owned();
        let version = line.record["version"].as_u64().unwrap();
        signed.entry((text("host"), version)).or_default().insert(text("payload_sha256"));
    }
    assert_eq!(signed.len(), hosts.len() * 3, "{signed:#?}");
    assert!(signed.values().all(|hashes| hashes.len() == 1), "{signed:#?}");
}
