//! The real program as `init` makes it: it starts, says so in the audit, and ends in order.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use jit_controller::{config::Config, store::Store};
use rustix::process::{Pid, Signal, kill_process};

use crate::databases::Database;

on_each_database! {
    a_new_controller_starts_and_ends_in_order,
}

/// Ended with the value, whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

const LONGEST: Duration = Duration::from_secs(60);

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LONGEST, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn a_new_controller_starts_and_ends_in_order(database: Database) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("controller").display().to_string();
    let program = env!("CARGO_BIN_EXE_jit-controller");
    let mut init = Command::new(program);
    init.args(["init", "--name", "localhost", "--listen", "127.0.0.1:0", "--dir", &dir]);
    if database.url.starts_with("postgres") {
        init.args(["--database", &database.url]);
    }
    let made = init.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let log = root.path().join("log");
    let mut serve = Command::new(program);
    serve.args(["serve", "--dir", &dir]).stdout(Stdio::null());
    serve.stderr(std::fs::File::create(&log).unwrap());
    let mut running = Running(serve.spawn().unwrap());
    let said = || std::fs::read_to_string(&log).unwrap();

    let url = Config::read(&root.path().join("controller/controller.toml")).unwrap();
    let store = Store::connect(&url.store.url().unwrap()).await.unwrap();
    let codes = async || -> Vec<String> {
        let lines = store.audit_after(0, 100).await.unwrap();
        lines.into_iter().map(|line| line.code).collect()
    };
    let up = async || codes().await.contains(&"S001".to_owned()).then_some(());
    let ended_early = async || running.0.try_wait().unwrap();
    tokio::select! {
        () = until("it does not start", up) => {}
        status = until("it does not end either", ended_early) => panic!("{status}: {}", said()),
    }
    assert!(codes().await.contains(&"S002".to_owned()), "{:?}", codes().await);

    let pid = Pid::from_child(&running.0);
    kill_process(pid, Signal::TERM).unwrap();
    let status = until("it does not end", async || running.0.try_wait().unwrap()).await;
    assert!(status.success(), "{status}: {}", said());
    // What was written last has a signed head.
    let (tip, _) = store.audit_tip().await.unwrap();
    let head = store.last_signed_head().await.unwrap().unwrap();
    assert_eq!(head.seq, tip, "{}", said());
}
