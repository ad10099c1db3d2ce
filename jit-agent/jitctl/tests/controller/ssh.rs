//! `jitctl ssh`: asks, waits, runs a program in place of ssh, and closes again.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use jit_client::controller::types::{HostView, RequestView};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    asking::{preview, view},
    server::{Controller, ok, page, script},
};

fn ready() -> Controller {
    let controller = Controller::with_login();
    let host = HostView {
        id: "web-1.invalid".into(),
        address: "192.0.2.10:7443".into(),
        ..HostView::default()
    };
    controller.says("GET /hosts/web-1.invalid", ok(&host));
    controller.says("GET /requests", page(&[(); 0], None));
    controller.answers("POST /requests", [ok(&preview("automatic")), ok(&view("delivering"))]);
    let open = RequestView { ends: Some("T".into()), ..view("open") };
    let show = format!("GET /requests/{}", open.id);
    controller.answers(&show, [ok(&view("delivering")), ok(&open)]);
    controller.says(&format!("POST /requests/{}/revoke", open.id), ok(&view("revoked")));
    controller
}

const SSH: &str = "ssh ana@web-1.invalid --source 203.0.113.7 --why w";

#[test]
fn ssh_runs_when_the_port_is_open_and_its_exit_code_stays() {
    let controller = ready();
    let program = script(&controller, "echo \"$@\"; exit 7");
    let said = controller.jitctl(&format!("{SSH} --ssh {program} -- -A uptime"));
    assert_eq!(said.exit, Some(7), "{said:?}");
    let name = "web-1.invalid";
    let line = format!("-o HostName=192.0.2.10 -o HostKeyAlias={name} -l ana {name} -A uptime\n");
    assert_eq!(said.out, line);
    let calls: Vec<_> = controller.asked().into_iter().map(|one| one.call).collect();
    assert!(!calls.iter().any(|call| call.ends_with("/revoke")), "{calls:?}");
}

#[test]
fn with_end_the_port_closes_when_ssh_ends() {
    let controller = ready();
    let program = script(&controller, "exit 3");
    let said = controller.jitctl(&format!("{SSH} --end --ssh {program}"));
    assert_eq!(said.exit, Some(3), "{said:?}");
    let asked = controller.asked();
    let last = asked.last().unwrap();
    assert!(last.call.ends_with("/revoke"), "{asked:?}");
    assert_eq!(last.json()["reason"], "ssh has ended");
}

#[test]
fn a_signal_ends_ssh_and_closes_the_port() {
    let controller = ready();
    let started = controller.file("started");
    let program = script(&controller, &format!("touch {}; exec sleep 60", started.display()));
    let mut child = controller
        .command(&format!("{SSH} --end --ssh {program}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !started.exists() {
        assert!(Instant::now() < until, "ssh was not started");
        thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    assert!(controller.asked().last().unwrap().call.ends_with("/revoke"));
}

#[test]
fn a_request_that_is_taken_back_while_it_waits_runs_nothing() {
    let controller = ready();
    let show = format!("GET /requests/{}", view("pending").id);
    controller.answers("POST /requests", [ok(&preview("manual")), ok(&view("pending"))]);
    controller.says(&show, ok(&view("pending")));
    controller.says(&format!("POST /requests/{}/withdraw", view("x").id), ok(&view("withdrawn")));
    let program = script(&controller, "echo ran");
    let mut child = controller
        .command(&format!("{SSH} --end --ssh {program}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let mut asked = Vec::new();
    while !asked.contains(&show) {
        assert!(Instant::now() < until, "{asked:?}");
        thread::sleep(Duration::from_millis(20));
        asked.extend(controller.asked().into_iter().map(|one| one.call));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(controller.asked().last().unwrap().call.ends_with("/withdraw"));
}

#[test]
fn a_denied_request_runs_nothing() {
    let controller = ready();
    controller.says(&format!("GET /requests/{}", view("x").id), ok(&view("denied")));
    let program = script(&controller, "echo ran");
    let said = controller.jitctl(&format!("{SSH} --ssh {program}"));
    assert_eq!((said.exit, said.out.as_str()), (Some(77), ""), "{said:?}");
    assert!(said.err.contains("not open: denied"), "{said:?}");
}
