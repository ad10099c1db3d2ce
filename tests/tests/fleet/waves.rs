//! Policies in waves.

use std::{fs, process::Command, time::Duration};

use jit_agent::{
    disk::store::{Store, Transaction},
    system::sys,
};
use jit_controller::{
    clock::now_ms,
    fleet::{HubSettings, rollouts::Course},
    model::rollout::{HostState, RolloutState},
    store::{Rollout, rollouts},
};
use jit_tests::programs::binary;
use rustix::process::Signal;

use crate::{
    desk::Controller,
    yard::{CONTROLLER, HUB_PORT, Yard},
};

const LONG: Duration = Duration::from_secs(60);
/// Port 22 as before, and 2222 armed, which needs a confirmation.
const POLICY: &str = r#"
[[port]]
port = 22
protocol = "tcp"
sources = ["0.0.0.0/0", "::/0"]
[[port]]
port = 2222
protocol = "tcp"
sources = ["0.0.0.0/0", "::/0"]
"#;
const CEILING: &str =
    "[ceiling]\narm = [\"22\", \"2222\"]\nsources = [\"0.0.0.0/0\", \"::/0\"]\ndrain = true\n";

fn hosts(yard: &mut Yard, ids: &[&str], strict: &str) -> Controller {
    for id in ids {
        let number = yard.add(id);
        if *id != strict {
            yard.configure(number, id, "", CEILING);
        }
        yard.start(number);
    }
    let controller = Controller::new(yard, &[]);
    for (number, id) in ids.iter().enumerate() {
        let env = if number == 0 { "canary" } else { "prod" };
        controller.put(id, &yard.address(number), &[("env", env)]);
    }
    for id in ids {
        controller.until("it answers", LONG, |it| it.observed(id).seen_ms > 0);
    }
    controller
}

fn begin(controller: &Controller, pause: Duration) -> Rollout {
    controller.runtime.block_on(async {
        let fleet = controller.fleet();
        let now = now_ms();
        let policy = fleet.save_policy("ana@example.org", POLICY, "CHG-1", now).await.unwrap();
        let course = Course {
            policy: policy.id,
            waves: ["env=canary", "all"].map(|wave| wave.parse().unwrap()).into(),
            confirm_within: Duration::from_secs(30),
            pause,
        };
        fleet.begin_rollout("ana@example.org", course, now).await.unwrap()
    })
}

fn rollout(controller: &Controller, id: &str) -> Rollout {
    controller.runtime.block_on(controller.desk.store().rollout(id)).unwrap().unwrap()
}

fn states(controller: &Controller, id: &str) -> Vec<HostState> {
    let hosts = controller.desk.store().rollout_hosts(id, "", 100);
    controller.runtime.block_on(hosts).unwrap().into_iter().map(|host| host.state).collect()
}

/// Whether a host protects the port that only the policy names.
fn has_policy(controller: &Controller, host: &str) -> bool {
    controller.observed(host).ports.iter().any(|port| port.port == "2222/tcp")
}

#[test]
fn a_rollout_halts_at_a_host_that_refuses_and_the_others_keep_what_they_have() {
    let mut yard = Yard::new();
    let ids = ["web-1", "web-2", "web-3"];
    let controller = hosts(&mut yard, &ids, "web-1");
    let id = begin(&controller, Duration::ZERO).id;
    controller.until("it halts", LONG, |it| rollout(it, &id).state == RolloutState::Halted);
    let why = rollout(&controller, &id).why;
    assert!(why.starts_with("web-1 is refused: ceiling: "), "{why}");
    assert_eq!(
        states(&controller, &id),
        [HostState::Refused, HostState::Waiting, HostState::Waiting]
    );
    std::thread::sleep(Duration::from_secs(2));
    assert!(ids.iter().all(|id| !has_policy(&controller, id)));
    // The host's own administrator allows it, and the rollout goes on.
    yard.configure(0, "web-1", "", CEILING);
    yard.signal_agent(0, Signal::HUP);
    let resumed = loop {
        std::thread::sleep(Duration::from_millis(500));
        let again = controller.fleet().resume_rollout("ana@example.org", &id, now_ms());
        if controller.runtime.block_on(again).is_ok() {
            std::thread::sleep(Duration::from_millis(500));
            if rollout(&controller, &id).state != RolloutState::Halted {
                break true;
            }
        }
    };
    assert!(resumed);
    controller.until("it is done", LONG, |it| rollout(it, &id).state == RolloutState::Done);
    assert_eq!(states(&controller, &id), [HostState::Applied; 3]);
    controller.until("all have the policy", LONG, |it| ids.iter().all(|id| has_policy(it, id)));
    assert!(controller.recorded("P001", "web-3") == 1 && controller.recorded("P003", "web-1") >= 2);
}

#[test]
fn a_rollout_goes_on_after_a_restart_and_an_abort_leaves_the_rest_as_it_is() {
    let mut yard = Yard::new();
    let ids = ["web-1", "web-2", "web-3"];
    let mut controller = hosts(&mut yard, &ids, "");
    let first = begin(&controller, Duration::from_secs(5)).id;
    controller.until("the first wave has it", LONG, |it| {
        states(it, &first) == [HostState::Applied, HostState::Waiting, HostState::Waiting]
    });
    controller.fleet = None;
    controller.fleet = Some(controller.start());
    let done = |it: &Controller, id: &str| rollout(it, id).state == RolloutState::Done;
    controller.until("it is done", LONG, |it| done(it, &first));
    // Each host was confirmed: nothing returns. The next one is aborted between its waves.
    let second = begin(&controller, Duration::from_secs(60)).id;
    controller
        .until("the first wave has it", LONG, |it| states(it, &second)[0] == HostState::Applied);
    let abort = controller.fleet().abort_rollout("li@example.org", &second, now_ms());
    controller.runtime.block_on(abort).unwrap();
    assert_eq!(
        states(&controller, &second),
        [HostState::Applied, HostState::Skipped, HostState::Skipped]
    );
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(rollout(&controller, &second).state, RolloutState::Aborted);
    assert!(ids.iter().all(|id| has_policy(&controller, id)));
}

#[test]
fn a_rollout_reaches_hosts_that_dial_out_and_each_confirms_over_a_new_connection() {
    let mut yard = Yard::new();
    let ids = ["web-1", "web-2", "web-3"];
    let mut controller = Controller::new(&yard, &[]);
    controller.restart(|settings| {
        let listen = format!("{CONTROLLER}:{HUB_PORT}").parse().unwrap();
        settings.hub = Some(HubSettings::new(listen, settings));
    });
    for (number, id) in ids.iter().enumerate() {
        controller.put(id, "", &[("env", if number == 0 { "canary" } else { "prod" })]);
        yard.add(id);
        yard.configure_uplink(number, id, CEILING);
        yard.spawn(number);
    }
    let connected = |it: &Controller, id: &str| it.observed(id).connected_ms;
    let began = ids.map(|id| {
        controller.until("it has dialled", LONG, |it| connected(it, id) > 0);
        connected(&controller, id)
    });
    let rolling = begin(&controller, Duration::ZERO).id;
    controller.until("it is done", LONG, |it| rollout(it, &rolling).state == RolloutState::Done);
    assert_eq!(states(&controller, &rolling), [HostState::Applied; 3]);
    for (id, before) in ids.iter().zip(began) {
        controller.until("it has the policy", LONG, |it| has_policy(it, id));
        let now = connected(&controller, id);
        assert!(now > before, "{id} confirmed over the connection of the push");
        assert_eq!(controller.alarms(id), [""; 0]);
    }
}

#[test]
fn a_rollout_halts_at_a_host_that_is_silent() {
    let mut yard = Yard::new();
    let controller = hosts(&mut yard, &["web-1", "web-2"], "");
    yard.stop(0, Signal::KILL);
    let id = begin(&controller, Duration::ZERO).id;
    controller.until("it halts", LONG, |it| rollout(it, &id).state == RolloutState::Halted);
    assert_eq!(states(&controller, &id), [HostState::Silent, HostState::Waiting]);
    let policy = rollout(&controller, &id).policy;
    let preview = controller.fleet().preview_policy(&policy, "web-2", now_ms());
    let preview = controller.runtime.block_on(preview).unwrap();
    assert_eq!(preview.reason, "ok");
    assert_eq!(preview.changes.unwrap().closed.len(), 1);
}

#[test]
fn a_host_that_degrades_in_the_pause_halts_the_rollout() {
    let mut yard = Yard::new();
    let controller = hosts(&mut yard, &["web-1", "web-2"], "");
    let id = begin(&controller, Duration::from_secs(600)).id;
    controller.until("the canary has it", LONG, |it| states(it, &id)[0] == HostState::Applied);
    // Somebody breaks the configuration there: the agent keeps the old one, and says so.
    yard.configure(0, "web-1", "", "[gaet]\n");
    yard.signal_agent(0, Signal::HUP);
    controller.until("it halts", LONG, |it| rollout(it, &id).state == RolloutState::Halted);
    let why = rollout(&controller, &id).why;
    assert!(why.starts_with("web-1 is degraded: degraded: "), "{why}");
    assert!(why.contains("gaet"), "{why}");
    assert_eq!(states(&controller, &id), [HostState::Degraded, HostState::Waiting]);
    std::thread::sleep(Duration::from_secs(2));
    assert!(has_policy(&controller, "web-1") && !has_policy(&controller, "web-2"));
}

#[test]
fn a_host_with_a_wrong_clock_halts_the_rollout_in_words() {
    let mut yard = Yard::new();
    let mut controller = hosts(&mut yard, &["web-1", "web-2"], "");
    controller.fleet = None;
    // The clock of this host is behind: it has been later there.
    yard.stop(0, Signal::KILL);
    let future = sys::now().wall + Duration::from_secs(3600);
    let (mut store, _) = Store::open(&yard.state(0), future).unwrap();
    store.commit(&Transaction { floor: Some(future), ..Transaction::default() }).unwrap();
    drop(store);
    yard.start(0);
    controller.fleet = Some(controller.start());
    let id = begin(&controller, Duration::ZERO).id;
    controller.until("it halts", LONG, |it| rollout(it, &id).state == RolloutState::Halted);
    let why = rollout(&controller, &id).why;
    println!("{why}");
    assert!(why.starts_with("web-1 is refused: clock_untrusted: "), "{why}");
    assert!(why.len() > 60, "a sentence: {why}");
    assert_eq!(states(&controller, &id), [HostState::Refused, HostState::Waiting]);
}

/// What a controller leaves that was killed while it waited for hosts, and whose rollout somebody aborts.
#[test]
fn hosts_that_wait_when_the_controller_of_an_aborted_rollout_was_killed_are_settled_after_it() {
    let mut yard = Yard::new();
    let mut controller = hosts(&mut yard, &["web-1", "web-2", "web-3"], "web-3");
    controller.fleet = None;
    // web-1 has taken the policy and waits; at web-2 nothing waits any more.
    fs::write(yard.path("policy.toml"), POLICY).unwrap();
    fs::write(yard.path("policies.key"), &*yard.policies.to_pem()).unwrap();
    let address = yard.address(0);
    let push = yard.hub.run(|| {
        let mut jitctl = Command::new(binary("jitctl"));
        jitctl.args(["--agent", &address, "--server-name", crate::yard::NAME]);
        jitctl.args(["--ca", "pki/ca.pem", "--cert", "pki/controller.pem"]);
        jitctl.args(["--key", "pki/controller.key", "policy", "push", "policy.toml"]);
        jitctl.args(["--signing-key", "policies.key", "--host", "web-1", "--why", "CHG-1"]);
        jitctl.args(["--confirm-within", "10m"]).current_dir(yard.path(""));
        jitctl.output().unwrap()
    });
    assert!(push.status.success(), "{push:?}");
    assert!(String::from_utf8_lossy(&push.stdout).contains("confirm"), "{push:?}");
    let now = now_ms();
    let id = controller.runtime.block_on(async {
        let store = controller.desk.store();
        let policy = jit_controller::store::Policy {
            id: ulid(now),
            text: POLICY.into(),
            author: "ana@example.org".into(),
            justification: "CHG-1".into(),
            saved_ms: now,
        };
        let rollout = Rollout {
            id: ulid(now),
            policy: policy.id.clone(),
            waves: vec!["all".parse().unwrap()],
            state: RolloutState::Aborted,
            why: "li@example.org said so".into(),
            wave: 0,
            wave_since_ms: now,
            confirm_s: 600,
            pause_ms: 0,
            created_by: "ana@example.org".into(),
            created_ms: now,
        };
        let mut tx = store.begin().await.unwrap();
        rollouts::insert_policy(&mut tx, &policy).await.unwrap();
        let all = ["web-1", "web-2", "web-3"].map(str::to_owned);
        rollouts::insert(&mut tx, &rollout, &[all.to_vec()]).await.unwrap();
        tx.commit().await.unwrap();
        for mut host in store.rollout_hosts(&rollout.id, "", 9).await.unwrap() {
            (host.state, host.version, host.word) = match host.host.as_str() {
                "web-3" => (HostState::Skipped, 0, String::new()),
                _ => (HostState::Pushed, 1, "enforcing".into()),
            };
            let mut tx = store.begin().await.unwrap();
            rollouts::update_host(&mut tx, &host).await.unwrap();
            tx.commit().await.unwrap();
        }
        rollout.id
    });
    controller.fleet = Some(controller.start());
    controller.until("none waits", LONG, |it| !states(it, &id).contains(&HostState::Pushed));
    let hosts = controller.desk.store().rollout_hosts(&id, "", 9);
    let hosts = controller.runtime.block_on(hosts).unwrap();
    let ends = [HostState::Applied, HostState::Refused, HostState::Skipped];
    assert_eq!(states(&controller, &id), ends, "{hosts:#?}");
    assert_eq!(hosts[1].word, "nothing_pending", "{:?}", hosts[1]);
    assert_eq!(rollout(&controller, &id).state, RolloutState::Aborted);
    controller.until("web-1 keeps it", LONG, |it| has_policy(it, "web-1"));
    assert!(!has_policy(&controller, "web-2") && !has_policy(&controller, "web-3"));
}

fn ulid(now_ms: i64) -> String {
    jit_proto::GrantId((u128::from(now_ms.unsigned_abs()) << 80 | 7).to_be_bytes()).to_string()
}
