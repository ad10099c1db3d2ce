//! A gate with a real database and a datapath in memory, that can be killed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jit_agent::{
    app::audit_settings,
    disk::{
        audit::{Audit, EventCode, Record, verify},
        store::{Opener, Store},
    },
    gate::{Gate, faults::Faults, journal::Journal},
    kernel::datapath::memory::MemoryDatapath,
    rules::{clock::Now, ledger::Admission},
};
use jit_proto::{Refusal, v1};
use tempfile::TempDir;

use crate::support::{NOW, SSH, config, envelope, later, v4};

pub(crate) struct Host {
    pub(crate) directory: TempDir,
    pub(crate) kernel: MemoryDatapath,
    pub(crate) gate: Option<Gate<MemoryDatapath>>,
    /// The events of its last run.
    pub(crate) journal: Arc<Journal>,
    /// Lines that are added to its configuration from the next start on.
    pub(crate) extra: String,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// With these lines added to its configuration.
    pub(crate) fn with(extra: &str) -> Self {
        Self::first(extra, NOW)
    }

    /// With other clocks.
    pub(crate) fn at(now: Now) -> Self {
        Self::first("", now)
    }

    fn first(extra: &str, now: Now) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let kernel = MemoryDatapath::default();
        let journal = Arc::new(Journal::new("test".into()));
        let extra = extra.to_owned();
        let mut host = Self { directory, kernel, gate: None, journal, extra };
        host.restart("boot-1", now);
        host
    }

    /// A restart as after kill -9: the kernel's tables and the disk stay, everything else is new.
    pub(crate) fn restart(&mut self, boot: &str, now: Now) {
        self.restart_by(boot, now, Arc::new(|builder, path| builder.create(path)));
    }

    /// The same with another way to open the database.
    pub(crate) fn restart_by(&mut self, boot: &str, now: Now, opener: Opener) {
        self.gate = None;
        let (_keys, config) = config(&self.extra);
        let state = self.directory.path().join("state");
        let store = Store::open_by(&state, now.wall, opener).unwrap();
        let audit = Audit::open(&state, audit_settings(&config), now).unwrap();
        self.journal = Arc::new(Journal::new("test".into()));
        let boards = (Arc::clone(&self.journal), Faults::default());
        let gate = Gate::start(config, self.kernel.clone(), store, audit, boards, boot.into(), now);
        self.gate = Some(gate.unwrap());
    }

    pub(crate) fn gate(&mut self) -> &mut Gate<MemoryDatapath> {
        self.gate.as_mut().unwrap()
    }

    pub(crate) fn push(&mut self, grant: &v1::Grant) -> Result<Admission, Refusal> {
        self.push_at(grant, NOW)
    }

    pub(crate) fn push_at(&mut self, grant: &v1::Grant, now: Now) -> Result<Admission, Refusal> {
        let outcome = self.gate().push(vec![envelope(grant)], "test", now).remove(0);
        outcome.map(|accepted| accepted.admission).map_err(|refused| refused.refusal)
    }

    /// The records of the audit, which must be whole, up to one of now.
    pub(crate) fn records(&mut self) -> Vec<serde_json::Value> {
        static MARK: AtomicU64 = AtomicU64::new(1_000_000_000);
        let mark = MARK.fetch_add(1, Ordering::Relaxed);
        self.gate().record(Record::new(EventCode::AlarmCleared).with("mark", mark), NOW);
        let state = self.directory.path().join("state");
        let end = Instant::now() + Duration::from_secs(20);
        // A thread writes it, for which the gate does not wait long.
        let text = loop {
            self.gate().advance(NOW);
            let text = std::fs::read_to_string(state.join("audit/audit.jsonl")).unwrap();
            if text.contains(&mark.to_string()) {
                break text;
            }
            assert!(Instant::now() < end, "the audit does not get its records");
        };
        let report = verify::verify(&state, &verify::Options::default()).unwrap();
        assert!(report.is_good(), "{report:#?}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The codes of the audit, in their order.
    pub(crate) fn codes(&mut self) -> Vec<String> {
        self.records().iter().map(|record| record["code"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn opens(&self, millis: i64) -> bool {
        self.kernel.opens(SSH, v4("203.0.113.7"), later(millis).boot)
    }
}
