//! Calls to hosts through the hubs that have them. Where a host is stands in the store, as its hub
//! has reported it; a call names the hub and the connection, so that it is made once and over that
//! one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jit_client::CallError;
use jit_proto::{
    printable::clean,
    v1::{self, diff_policy_request::What},
};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use super::{
    super::{FleetError, backoff::random},
    place::hub_of,
};
use crate::{
    bus::{Answer, Ask, Bus, Call, Said},
    model::host::Condition,
    store::Store,
};

/// The longest wait for an answer: the hub waits 10 s for its agent.
const ANSWER: Duration = Duration::from_secs(12);
/// Between attempts to listen.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest word and sentence of an answer, characters.
const WORD: usize = 64;
const SENTENCE: usize = 1000;

/// Calls that are under way.
pub(in crate::fleet) struct Calls {
    store: Store,
    /// `None` until it lets this controller in.
    bus: watch::Sender<Option<Bus>>,
    waiting: Mutex<HashMap<String, Waiting>>,
}

/// Who waits for an answer, and of whom it must be.
struct Waiting {
    host: String,
    hub: String,
    answer: oneshot::Sender<Said>,
}

/// A host at a hub, over the connection that it had there.
pub(in crate::fleet) struct Line {
    calls: Arc<Calls>,
    host: String,
    pub(in crate::fleet) hub: String,
    /// Since when the hub has the connection, by its clock.
    pub(in crate::fleet) since_ms: i64,
}

impl Calls {
    /// Calls that are made as soon as the bus is there.
    pub(in crate::fleet) fn new(store: Store) -> Self {
        Self { store, bus: watch::channel(None).0, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hub that has a host, and the connection that it has there.
    ///
    /// # Errors
    /// There is no such host, or no hub has it.
    pub(in crate::fleet) async fn line(self: &Arc<Self>, host: &str) -> Result<Line, FleetError> {
        let known = self.store.host(host).await?;
        let known = known.ok_or_else(|| FleetError::NotFound(format!("host {host:?}")))?;
        let observed = known.observed;
        let hub = hub_of(&observed.uplink).unwrap_or_default().to_owned();
        if hub.is_empty() || observed.condition == Condition::Unreachable {
            let why = match observed.trouble.as_str() {
                "" => "no hub of the bus has it connected",
                trouble => trouble,
            };
            return Err(FleetError::Unreachable(why.to_owned()));
        }
        let since_ms = observed.connected_ms;
        Ok(Line { calls: Arc::clone(self), host: host.to_owned(), hub, since_ms })
    }

    /// Gives an answer to who waits for it. Other answers are nobody's.
    fn answered(&self, answer: Answer) {
        let mut all = self.waiting();
        let of = all.get(&answer.id);
        if !of.is_some_and(|of| of.host == answer.host && of.hub == answer.hub) {
            return;
        }
        if let Some((waiting, said)) = all.remove(&answer.id).zip(answer.said) {
            // Who asked may have been ended meanwhile.
            let _gone = waiting.answer.send(said);
        }
    }
}

/// Listens to answers until the task is ended.
pub(super) async fn listen(calls: Arc<Calls>, bus: Bus) {
    loop {
        match bus.answers().await {
            Ok(mut answers) => {
                calls.bus.send_replace(Some(bus.clone()));
                while let Some(answer) = answers.next().await {
                    calls.answered(answer);
                }
            }
            Err(error) => tracing::warn!(%error, "answers of hosts are not heard"),
        }
        sleep(AGAIN).await;
    }
}

/// Removes who does not wait any more.
struct Waits<'c>(&'c Calls, String);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

impl Line {
    async fn ask(&self, ask: Ask) -> Result<Said, CallError> {
        let unavailable = |why: String| {
            CallError::Unavailable(format!("through the hub {}: {why}", clean(&self.hub, WORD)))
        };
        let bus = self.calls.bus.borrow().clone().filter(Bus::is_connected);
        let bus = bus.ok_or_else(|| unavailable("no server of the bus is connected".into()))?;
        let call = Call {
            id: format!("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random()),
            hub: self.hub.clone(),
            host: self.host.clone(),
            since_ms: self.since_ms,
            ask: Some(ask),
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { host: self.host.clone(), hub: self.hub.clone(), answer };
        self.calls.waiting().insert(call.id.clone(), waiting);
        let _waits = Waits(&self.calls, call.id.clone());
        bus.call(&call).await.map_err(|error| unavailable(error.to_string()))?;
        let Ok(Ok(said)) = timeout(ANSWER, answered).await else {
            return Err(unavailable(format!("no answer came within {} s", ANSWER.as_secs())));
        };
        match said {
            Said::Refused(of) => {
                let (word, detail) = (clean(&of.word, WORD), clean(&of.detail, SENTENCE));
                Err(CallError::refused(&word, &detail))
            }
            Said::Unavailable(why) => Err(unavailable(clean(&why, SENTENCE))),
            said => Ok(said),
        }
    }

    /// An answer to something else.
    fn other(&self) -> CallError {
        let hub = clean(&self.hub, WORD);
        CallError::Unavailable(format!("the hub {hub} answers something else than was asked"))
    }
}

/// The answer of this kind.
macro_rules! said {
    ($self:ident, $kind:ident($request:expr)) => {
        match $self.ask(Ask::$kind($request)).await? {
            Said::$kind(answer) => Ok(answer),
            _ => Err($self.other()),
        }
    };
}

impl Line {
    pub(in crate::fleet) async fn status(&self) -> Result<v1::StatusResponse, CallError> {
        match self.ask(Ask::Status(v1::StatusRequest {})).await? {
            Said::Status(answer) => Ok(*answer),
            _ => Err(self.other()),
        }
    }

    pub(in crate::fleet) async fn show_policy(&self) -> Result<v1::ShowPolicyResponse, CallError> {
        said!(self, ShowPolicy(v1::ShowPolicyRequest {}))
    }

    pub(in crate::fleet) async fn diff_policy(
        &self,
        what: What,
    ) -> Result<v1::DiffPolicyResponse, CallError> {
        said!(self, DiffPolicy(v1::DiffPolicyRequest { what: Some(what) }))
    }

    pub(in crate::fleet) async fn push_policy(
        &self,
        request: v1::PushPolicyRequest,
    ) -> Result<v1::PushPolicyResponse, CallError> {
        said!(self, PushPolicy(request))
    }

    pub(in crate::fleet) async fn confirm_policy(
        &self,
        version: u64,
    ) -> Result<v1::ConfirmPolicyResponse, CallError> {
        said!(self, ConfirmPolicy(v1::ConfirmPolicyRequest { version }))
    }

    pub(in crate::fleet) async fn denials(
        &self,
        request: v1::DenialsRequest,
    ) -> Result<v1::DenialsResponse, CallError> {
        said!(self, Denials(request))
    }

    pub(in crate::fleet) async fn request_certificate(
        &self,
    ) -> Result<v1::RequestCertificateResponse, CallError> {
        said!(self, RequestCertificate(v1::RequestCertificateRequest {}))
    }

    pub(in crate::fleet) async fn install_certificate(
        &self,
        certificate: Vec<u8>,
    ) -> Result<v1::InstallCertificateResponse, CallError> {
        let request = v1::InstallCertificateRequest { certificate: certificate.into() };
        said!(self, InstallCertificate(request))
    }

    /// Has the agent make its connection anew.
    pub(in crate::fleet) async fn reconnect(&self) -> Result<v1::ReconnectResponse, CallError> {
        said!(self, Reconnect(v1::ReconnectRequest {}))
    }
}
