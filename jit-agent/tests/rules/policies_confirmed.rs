//! Pushed policies that wait for a confirmation, and what returns without it.

use std::time::Duration;

use jit_agent::{
    gate::PolicyPush,
    kernel::datapath::memory::MemoryDatapath,
    rules::clock::{BootNanos, Now},
};
use jit_proto::{Refusal, v1};

use crate::{
    policy_host::{HTTP, Host, RDP, exemption, policy, seconds, section, signed},
    support::{MINUTE, NOW, SSH, later, v4},
};

/// What a policy shuts out goes on if it returns: nothing is cut before somebody says that it
/// stays.
#[test]
fn a_policy_that_waits_cuts_no_session_and_one_that_stays_does() {
    for confirmed in [false, true] {
        let mut host = Host::start();
        let peer = v4("203.0.113.9");
        host.kernel.open_socket(peer, 40_000, 8080);
        let cutting = v1::PolicyPort { sessions: v1::Sessions::Cut.into(), ..section(8080) };
        assert_eq!(host.push(&policy(1, &[cutting]), NOW), Ok("pending".into()));
        host.gate().advance(seconds(10));
        assert_eq!(host.kernel.sockets().len(), 1, "it waits");
        if confirmed {
            host.confirm(1, seconds(11), seconds(11)).unwrap();
        }
        host.gate().advance(seconds(121));
        assert_eq!(host.is_armed(HTTP), confirmed);
        assert_eq!(host.kernel.sockets().is_empty(), confirmed);
    }
}

#[test]
fn an_armed_port_is_open_again_unless_it_is_confirmed_in_time() {
    let mut host = Host::start();
    assert!(!host.is_armed(HTTP));
    assert_eq!(host.push(&policy(1, &[section(8080)]), NOW), Ok("pending".into()));
    assert!(host.is_armed(HTTP) && host.is_armed(SSH));
    let soon = host.gate().status(seconds(1)).soon;
    assert!(soon.iter().any(|line| line.contains("is not confirmed")), "{soon:?}");
    host.gate().advance(seconds(119));
    assert!(host.is_armed(HTTP));
    assert!(host.gate().advance(seconds(119)) <= Duration::from_secs(1), "it wakes in time");
    host.gate().advance(seconds(120));
    assert!(!host.is_armed(HTTP) && host.is_armed(SSH), "and what was closed before is so still");
    assert_eq!(host.version(seconds(120)), 0);
    assert_eq!(host.confirm(1, seconds(121), seconds(121)), Err(Refusal::NothingPending));
    host.restart("boot-1", seconds(122));
    assert!(!host.is_armed(HTTP));
    // Its version is used up.
    assert_eq!(host.push(&policy(1, &[section(8080)]), seconds(123)), Err(Refusal::StaleVersion));
}

#[test]
fn a_restart_inside_the_window_neither_keeps_it_nor_gives_it_longer() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    host.restart("boot-1", seconds(60));
    assert!(host.is_armed(HTTP));
    host.gate().advance(seconds(119));
    assert!(host.is_armed(HTTP));
    host.gate().advance(seconds(120));
    assert!(!host.is_armed(HTTP));

    // The agent is dead when the time ends: the kernel keeps it closed, the start opens it.
    host.push(&policy(2, &[section(8080)]), seconds(200)).unwrap();
    host.restart("boot-1", seconds(400));
    assert!(!host.is_armed(HTTP));
    assert_eq!(host.version(seconds(400)), 0);

    // After a reboot the boot clock says nothing about it.
    host.push(&policy(3, &[section(8080)]), seconds(500)).unwrap();
    host.kernel = MemoryDatapath::default();
    let now = Now { boot: BootNanos(5_000_000_000), ..seconds(510) };
    host.restart("boot-2", now);
    assert!(!host.is_armed(HTTP) && host.is_armed(SSH));
}

#[test]
fn a_confirmation_over_a_fresh_connection_keeps_it_for_good() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    for connected in [Now { boot: BootNanos(0), ..NOW }, NOW] {
        assert_eq!(host.confirm(1, connected, seconds(5)), Err(Refusal::NotFresh));
    }
    assert_eq!(host.confirm(2, seconds(1), seconds(5)), Err(Refusal::NothingPending));
    assert_eq!(host.confirm(1, seconds(1), seconds(5)), Ok("ok".into()));
    assert_eq!(host.confirm(1, seconds(1), seconds(6)), Ok("known".into()));
    host.gate().advance(seconds(500));
    assert!(host.is_armed(HTTP));
    host.kernel = MemoryDatapath::default();
    host.restart("boot-2", Now { boot: BootNanos(5_000_000_000), ..seconds(600) });
    assert!(host.is_armed(HTTP));
    assert_eq!(host.version(seconds(600)), 1);
}

#[test]
fn a_word_that_comes_too_late_does_not_keep_it() {
    let mut host = Host::start();
    let window = Some(Duration::from_secs(10));
    let push = |version| PolicyPush {
        envelope: signed(&policy(version, &[section(8080)])),
        confirm_within: window,
        strict: false,
    };
    host.push_with(push(1), NOW).unwrap();
    // The gate has not looked at the clock yet.
    assert_eq!(host.confirm(1, seconds(1), seconds(10)), Err(Refusal::NothingPending));
    host.gate().advance(seconds(10));
    assert!(!host.is_armed(HTTP));
    host.push_with(push(2), seconds(20)).unwrap();
    assert_eq!(host.confirm(2, seconds(21), later(29_999)), Ok("ok".into()));
    for window in [Duration::ZERO, Duration::from_secs(3601)] {
        let push = PolicyPush { confirm_within: Some(window), ..push(3) };
        assert_eq!(host.push_with(push, seconds(30)).unwrap_err().0, Refusal::Malformed);
    }
}

#[test]
fn what_shuts_nobody_out_is_in_force_at_once() {
    let mut host = Host::start();
    let shorter = v1::PolicyPort { max_duration_ms: 5 * MINUTE, ..section(22) };
    let mut tighter = policy(1, &[]);
    tighter.ports[0] = shorter;
    assert_eq!(host.push(&tighter, NOW), Ok("ok".into()));
    host.gate().advance(seconds(500));
    assert_eq!(host.version(seconds(500)), 1);
    // To open needs no word either: nobody can lock himself out by it.
    let mut open = policy(2, &[]);
    open.ports.remove(1);
    assert_eq!(host.push(&open, seconds(500)), Ok("ok".into()));
    assert!(!host.is_armed(RDP));
    // A port that is only observed shuts nobody out; to enforce it does.
    let observe = host.extra.replace("drain = true", "drain = true\nobserve = true");
    host.reload(&observe, seconds(500)).unwrap();
    let observed = v1::PolicyPort { mode: v1::Mode::Observe.into(), ..section(8080) };
    assert_eq!(host.push(&policy(3, &[observed]), seconds(501)), Ok("pending".into()), "3389");
    assert_eq!(host.confirm(3, seconds(502), seconds(502)), Ok("ok".into()));
    assert_eq!(host.push(&policy(4, &[section(8080)]), seconds(503)), Ok("pending".into()));
}

#[test]
fn what_waits_is_not_the_measure_of_what_is_new() {
    let mut host = Host::start();
    host.push(&policy(1, &[section(8080)]), NOW).unwrap();
    // 8080 is armed already, but nobody has confirmed that.
    assert_eq!(host.push(&policy(2, &[section(8080)]), seconds(60)), Ok("pending".into()));
    assert_eq!(host.confirm(1, seconds(61), seconds(61)), Err(Refusal::NothingPending));
    host.gate().advance(seconds(180));
    assert!(!host.is_armed(HTTP));
    // One that takes it back stands at once, and nothing is left to wait for.
    host.push(&policy(3, &[section(8080)]), seconds(200)).unwrap();
    assert_eq!(host.push(&policy(4, &[]), seconds(201)), Ok("ok".into()));
    host.gate().advance(seconds(500));
    assert_eq!(host.version(seconds(500)), 4);
}

#[test]
fn a_lost_exemption_waits_for_a_confirmation_and_returns() {
    let mut host = Host::start();
    let exempt =
        |version, exemptions| policy(version, &[v1::PolicyPort { exemptions, ..section(8080) }]);
    let probe = vec![exemption("10.0.0.5", 0)];
    host.push(&exempt(1, probe.clone()), NOW).unwrap();
    host.confirm(1, seconds(1), seconds(1)).unwrap();
    assert!(host.opens(HTTP, "10.0.0.5", seconds(1)) && !host.opens(HTTP, "10.0.0.6", seconds(1)));
    assert_eq!(host.push(&exempt(2, Vec::new()), seconds(2)), Ok("pending".into()));
    assert!(!host.opens(HTTP, "10.0.0.5", seconds(2)));
    host.gate().advance(seconds(122));
    assert!(host.opens(HTTP, "10.0.0.5", seconds(122)));
    // Wider, or for longer, takes nothing away.
    assert_eq!(
        host.push(&exempt(3, vec![exemption("10.0.0.0/24", 0)]), seconds(123)),
        Ok("ok".into())
    );
}
