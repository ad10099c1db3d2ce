//! The controller's side: a store, a desk, the fleet, and requests that are signed already.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_client::signing::{SigningKey, seal};
use jit_controller::{
    clock::now_ms,
    desk::{self, Desk},
    fleet::{Fleet, Settings, SignPolicy, import},
    model::{Host, Needs, Outcome, Proposal, State, Verdict, grant::parts, host::Observed},
    store::{Delivery, Request, Store, deliveries, grants, requests},
};
use jit_proto::payload_type::{GRANT_TYPE, POLICY_TYPE};
use tokio::runtime::{Builder, Runtime};

use crate::yard::{CONTROLLER, NAME, Yard};

/// A controller without people: requests are signed by the test.
pub(crate) struct Controller {
    pub(crate) desk: Desk,
    pub(crate) fleet: Option<Fleet>,
    pub(crate) runtime: Runtime,
    settings: Settings,
    sign: SignPolicy,
    last: std::cell::Cell<u128>,
}

impl Controller {
    /// With these hosts in its inventory: id, and number of the host in the yard.
    pub(crate) fn new(yard: &Yard, hosts: &[(&str, usize)]) -> Self {
        let (desk, settings, sign, runtime) = Self::parts(yard);
        let controller =
            Self { desk, fleet: None, runtime, settings, sign, last: std::cell::Cell::new(1) };
        for (id, number) in hosts {
            controller.put(id, &yard.address(*number), &[]);
        }
        Self { fleet: Some(controller.start()), ..controller }
    }

    fn parts(yard: &Yard) -> (Desk, Settings, SignPolicy, Runtime) {
        let worker = || Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = yard.hub.run(|| worker().unwrap());
        let url = Store::sqlite_url(&yard.path("controller.db"));
        let store = runtime.block_on(Store::open(&url)).unwrap();
        let desk = Desk::new(store, None, desk::Settings::default());
        let mut settings = Settings::new(
            yard.path("pki/ca.pem"),
            yard.path("pki/controller.pem"),
            yard.path("pki/controller.key"),
        );
        settings.follow_every = Duration::from_secs(1);
        settings.timeout = Duration::from_secs(3);
        let key = Arc::new(SigningKey::from_pem(&yard.policies.to_pem()).unwrap());
        let sign: SignPolicy = Arc::new(move |payload| {
            let key = Arc::clone(&key);
            Box::pin(async move {
                Ok(seal(POLICY_TYPE, payload, std::slice::from_ref(&key)).signatures)
            })
        });
        (desk, settings, sign, runtime)
    }

    /// Starts the fleet, as after a restart.
    pub(crate) fn start(&self) -> Fleet {
        let (desk, settings) = (self.desk.clone(), self.settings.clone());
        let sign = Arc::clone(&self.sign);
        // By a thread of the runtime: those are in the controller's namespace.
        let started = self.runtime.spawn(async move { Fleet::start(desk, &settings, sign) });
        self.runtime.block_on(started).unwrap().unwrap()
    }

    /// Starts it again with other settings.
    pub(crate) fn restart(&mut self, change: impl FnOnce(&mut Settings)) {
        self.fleet = None;
        change(&mut self.settings);
        self.fleet = Some(self.start());
    }

    pub(crate) fn fleet(&self) -> &Fleet {
        self.fleet.as_ref().unwrap()
    }

    /// Writes a host of the inventory, as the API does.
    pub(crate) fn put(&self, id: &str, address: &str, labels: &[(&str, &str)]) {
        let host = Host {
            id: id.into(),
            address: address.into(),
            server_name: NAME.into(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..Host::default()
        };
        let plan = import::Plan { added: vec![host], ..import::Plan::default() };
        self.runtime.block_on(async {
            let mut tx = self.desk.store().begin().await.unwrap();
            import::apply(&mut tx, &plan, "test", now_ms()).await.unwrap();
            tx.commit().await.unwrap();
            self.desk.changed();
        });
    }

    /// A request that is signed and on its way. Returns its id.
    pub(crate) fn request(&self, yard: &Yard, hosts: &[&str], lasts: Duration) -> String {
        let now = now_ms();
        self.last.set(self.last.get() + 1000);
        let id = jit_proto::GrantId(
            (u128::from(now.unsigned_abs()) << 80 | self.last.get()).to_be_bytes(),
        );
        let duration_ms = i64::try_from(lasts.as_millis()).unwrap();
        let proposal = Proposal {
            id: id.to_string(),
            requester: "ana@example.org".into(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            sources: vec![CONTROLLER.parse().unwrap()],
            ports: vec!["22/tcp".parse().unwrap()],
            duration_ms,
            start_ms: None,
            reason: "test".into(),
            ticket: String::new(),
            sessions: None,
            max_connections: 0,
            replaces: None,
            created_ms: now,
            approve_until_ms: now + 60_000,
        };
        let verdict = Verdict {
            rules_version: 1,
            outcome: Outcome::Automatic,
            needs: Needs::default(),
            max_duration_ms: None,
            rules: Vec::new(),
            denied: Vec::new(),
            escalate: None,
        };
        let request = Request {
            hash: proposal.hash(),
            account: "ana".into(),
            idempotency_key: proposal.id.clone(),
            state: State::Delivering,
            verdict,
            why: String::new(),
            escalate_ms: 0,
            ends_ms: now + duration_ms,
            replaced_by: String::new(),
            revision: 0,
            proposal,
        };
        let parts = parts(&request.proposal, &[], &[], now).unwrap();
        self.runtime.block_on(async {
            let mut tx = self.desk.store().begin().await.unwrap();
            requests::insert(&mut tx, &request).await.unwrap();
            for (number, part) in parts.iter().enumerate() {
                let id = part.id.to_string();
                grants::insert(&mut tx, &request.proposal.id, number, part, 1).await.unwrap();
                let key = std::slice::from_ref(&yard.grants);
                let envelope = seal(GRANT_TYPE, part.payload.clone(), key);
                grants::set_envelope(&mut tx, &id, &envelope, now).await.unwrap();
                let of = &request.proposal.id;
                let until = part.not_after_ms;
                deliveries::insert(&mut tx, of, &id, &part.hosts, now, until).await.unwrap();
            }
            tx.commit().await.unwrap();
            self.desk.changed();
        });
        request.proposal.id
    }

    /// Revokes a request, as the desk does.
    pub(crate) fn revoke(&self, id: &str) {
        self.runtime.block_on(async {
            let mut tx = self.desk.store().begin().await.unwrap();
            let mut request = requests::lock(&mut tx, id).await.unwrap().unwrap();
            request.state = State::Revoked;
            requests::update(&mut tx, &request).await.unwrap();
            deliveries::revoke(&mut tx, id, now_ms()).await.unwrap();
            tx.commit().await.unwrap();
            self.desk.changed();
        });
    }

    pub(crate) fn state(&self, id: &str) -> State {
        let request = self.desk.store().request(id);
        self.runtime.block_on(request).unwrap().unwrap().state
    }

    pub(crate) fn deliveries(&self, id: &str) -> Vec<Delivery> {
        self.runtime.block_on(self.desk.store().deliveries_of(id)).unwrap()
    }

    /// What one host of a request has answered.
    pub(crate) fn delivery(&self, id: &str, host: &str) -> Delivery {
        let of = self.deliveries(id).into_iter().find(|one| one.host == host);
        of.unwrap_or_else(|| panic!("no delivery to {host}"))
    }

    pub(crate) fn observed(&self, host: &str) -> Observed {
        self.runtime.block_on(self.desk.store().host(host)).unwrap().unwrap().observed
    }

    /// Words of the alarms of a host.
    pub(crate) fn alarms(&self, host: &str) -> Vec<String> {
        self.observed(host).alarms.into_iter().map(|alarm| alarm.word).collect()
    }

    /// Number of audit records with this code that name this.
    pub(crate) fn recorded(&self, code: &str, names: &str) -> usize {
        let lines = self.runtime.block_on(self.desk.store().audit_after(0, 100_000)).unwrap();
        lines.iter().filter(|line| line.code == code && line.line.contains(names)).count()
    }

    /// Waits until it is like that.
    #[track_caller]
    pub(crate) fn until(
        &self,
        what: &str,
        within: Duration,
        is: impl Fn(&Self) -> bool,
    ) -> Duration {
        let began = Instant::now();
        while !is(self) {
            assert!(began.elapsed() < within, "not within {within:?}: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
        began.elapsed()
    }
}

/// Memory of this process, MiB.
pub(crate) fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
