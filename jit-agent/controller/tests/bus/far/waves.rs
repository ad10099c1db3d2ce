//! Policies for hosts at hubs of the bus: in waves, and each confirmed over a new connection of its
//! host.

use std::{collections::BTreeSet, time::Duration};

use jit_controller::{
    clock::now_ms,
    fleet::rollouts::Course,
    model::rollout::{HostState, RolloutState, Wave},
    store::Rollout,
};

use super::{
    double::Double,
    world::{World, until},
};

/// It arms a port, which needs a confirmation.
const POLICY: &str =
    "[[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\n";
const WHO: &str = "ana@example.org";

async fn policy(world: &World) -> String {
    world.fleet().save_policy(WHO, POLICY, "CHG-1", now_ms()).await.unwrap().id
}

/// Begins a rollout in these waves.
async fn begin(world: &World, waves: &[&[&str]], confirm_within: Duration) -> Rollout {
    let hosts = |wave: &&[&str]| -> BTreeSet<String> {
        wave.iter().map(|host| (*host).to_owned()).collect()
    };
    let course = Course {
        policy: policy(world).await,
        waves: waves.iter().map(|wave| Wave::Hosts(hosts(wave))).collect(),
        confirm_within,
        pause: Duration::ZERO,
    };
    world.fleet().begin_rollout(WHO, course, now_ms()).await.unwrap()
}

async fn rollout(world: &World, id: &str) -> Rollout {
    world.desk.store().rollout(id).await.unwrap().unwrap()
}

/// Waits until a rollout is that, and returns it with the states of its hosts.
async fn ended(world: &World, id: &str, state: RolloutState) -> (Rollout, Vec<HostState>) {
    until(state.word(), async || {
        let now = rollout(world, id).await;
        assert!(
            now.state == RolloutState::Running || now.state == state,
            "{}: {}",
            now.state.word(),
            now.why
        );
        now.state == state
    })
    .await;
    let hosts = world.desk.store().rollout_hosts(id, "", 100).await.unwrap();
    (rollout(world, id).await, hosts.into_iter().map(|host| host.state).collect())
}

/// The version that is in force at a host, and how many policies have come.
fn version(agent: &Double) -> (Option<u64>, usize) {
    let policies = agent.policies.lock().unwrap();
    (policies.in_force.as_ref().map(|policy| policy.version), policies.pushed.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waves_reach_hosts_at_two_hubs_and_each_confirms_over_a_new_connection() {
    let ids = ["web-1", "web-2", "web-3"];
    let world = World::new(&ids).await;
    let hubs = [world.hub("hub-a").await, world.hub("hub-b").await];
    let [first, second] = [hubs[0].address, hubs[1].address];
    let agents = ids.map(|id| Double::new(id, id));
    // The first goes to the other hub when it connects anew, the second comes back to its own.
    agents[0].roam(&[first, second], world.client("web-1")).await;
    agents[1].roam(&[second], world.client("web-2")).await;
    agents[2].roam(&[second, first], world.client("web-3")).await;
    world.is_at("web-1", "hub-a").await;
    world.is_at("web-2", "hub-b").await;
    world.is_at("web-3", "hub-b").await;

    // A preview changes nothing.
    let of = policy(&world).await;
    let preview = world.fleet().preview_policy(&of, "web-2", now_ms()).await.unwrap();
    assert_eq!((preview.reason.as_str(), preview.changes.unwrap().closed.len()), ("ok", 1));
    assert_eq!(version(&agents[1]), (None, 0));
    let nobody = world.fleet().preview_policy(&of, "db-1", now_ms()).await.unwrap_err();
    assert!(nobody.to_string().contains("db-1"), "{nobody}");

    let id = begin(&world, &[&["web-1"], &["web-2", "web-3"]], Duration::from_secs(60)).await.id;
    let (_, states) = ended(&world, &id, RolloutState::Done).await;
    assert_eq!(states, [HostState::Applied; 3]);
    for agent in &agents {
        assert_eq!(version(agent), (Some(1), 1), "{}", agent.host);
        assert!(world.observed(&agent.host).await.alarms.is_empty());
    }
    world.is_at("web-1", "hub-b").await;
    world.is_at("web-2", "hub-b").await;
    world.is_at("web-3", "hub-a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_would_be_shut_out_returns_by_itself_and_one_that_refuses_halts_the_wave() {
    let ids = ["web-1", "web-2", "web-3"];
    let world = World::new(&ids).await;
    let hubs = [world.hub("hub-a").await, world.hub("hub-b").await];
    let both = [hubs[0].address, hubs[1].address];
    let agents = ids.map(|id| Double::new(id, id));
    for agent in &agents {
        agent.roam(&both, world.client(&agent.host)).await;
        world.is_at(&agent.host, "hub-a").await;
    }
    agents[0].policies.lock().unwrap().shuts_out = true;
    let waves: &[&[&str]] = &[&["web-1"], &["web-2", "web-3"]];
    let id = begin(&world, waves, Duration::from_secs(25)).await.id;
    let (halted, states) = ended(&world, &id, RolloutState::Halted).await;
    assert!(halted.why.starts_with("web-1 is silent: "), "{}", halted.why);
    assert_eq!(states, [HostState::Silent, HostState::Waiting, HostState::Waiting]);
    until("the one before is back", async || {
        let policies = agents[0].policies.lock().unwrap();
        policies.returned == 1 && policies.in_force.is_none()
    })
    .await;
    until("it is back", async || world.observed("web-1").await.condition.word() == "enforcing")
        .await;
    assert_eq!(version(&agents[1]), (None, 0));

    // What was wrong is mended; another host refuses.
    agents[0].policies.lock().unwrap().shuts_out = false;
    agents[1].policies.lock().unwrap().refuses = Some("ceiling");
    world.fleet().resume_rollout(WHO, &id, now_ms()).await.unwrap();
    let (halted, states) = ended(&world, &id, RolloutState::Halted).await;
    assert!(halted.why.starts_with("web-2 is refused: ceiling: it does not"), "{}", halted.why);
    assert_eq!(states[0], HostState::Applied);
    assert_eq!(states[1], HostState::Refused);
    assert_eq!(version(&agents[0]).0, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_in_the_middle_of_a_wave_costs_time_and_nothing_else() {
    let ids = ["web-1", "web-2"];
    let mut world = World::new(&ids).await;
    let first = world.hub("hub-a").await;
    let second = world.hub("hub-b").await;
    let both = [first.address, second.address];
    let agents = ids.map(|id| Double::new(id, id));
    for agent in &agents {
        agent.roam(&both, world.client(&agent.host)).await;
        world.is_at(&agent.host, "hub-a").await;
        agent.policies.lock().unwrap().slow = Some(Duration::from_secs(1));
    }
    let id = begin(&world, &[&ids], Duration::from_secs(120)).await.id;
    until("it is signed", async || {
        let hosts = world.desk.store().rollout_hosts(&id, "", 100).await.unwrap();
        hosts.iter().all(|host| host.state == HostState::Signing)
    })
    .await;
    // The push is under way; nobody answers it, and the side with the store begins anew, too.
    drop(first);
    world.restart_office();
    for agent in &agents {
        agent.policies.lock().unwrap().slow = None;
    }
    let (_, states) = ended(&world, &id, RolloutState::Done).await;
    assert_eq!(states, [HostState::Applied; 2]);
    for agent in &agents {
        world.is_at(&agent.host, "hub-b").await;
        let (in_force, pushed) = version(agent);
        assert!(in_force.is_some() && pushed >= 1, "{in_force:?} {pushed}");
        assert_eq!(agent.policies.lock().unwrap().returned, 0);
    }
}
