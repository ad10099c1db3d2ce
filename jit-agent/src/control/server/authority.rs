//! What a peer may do. The controllers and authorities are checked at each call. So a controller
//! that is removed, whose certificate ends or whose authority is removed loses all permissions,
//! also on open connections and streams.

use std::{sync::Arc, time::Duration};

use jit_proto::{
    Refusal,
    permission::{Permission, Permissions},
    printable,
};
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;
use tonic::{Request, Status};

use crate::{
    config::Controller,
    control::{
        link::{Denied, Said, ToGate, pipe::Sender},
        server::{
            answer::refused_status,
            peer::{Caller, Identity, Who},
        },
        tls::{Authorities, Hubs},
    },
    disk::audit::EventCode,
    gate::GateHandle,
    rules::{clock::BootNanos, refusal::Refused},
    system::{reports::Reports, sys},
};

/// How often the certificate of an open stream is checked: it may have ended.
const LOOK: Duration = Duration::from_secs(60);
/// Number of letters that are kept of a name that the front reports.
const MAX_NAME: usize = 1024;

/// The controllers with their permissions, and the authorities that vouch for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    controllers: Arc<[Controller]>,
    trusted: Trusted,
}

/// Who vouches for the other side of a connection.
#[derive(Clone, Debug, Default)]
pub struct Trusted {
    /// For who connects to the agent; `None`: nobody.
    pub authorities: Option<Authorities>,
    /// For hubs; `None`: nobody.
    pub hubs: Option<Hubs>,
}

/// What a peer asked for that is not one of its permissions.
const CONNECTION: &str = "a connection";
const ROOT: &str = "root on the host";

/// Who hears of denials: the gate, which records them; in the front, the gate's process, which asks
/// its own table who that is.
#[derive(Clone, Debug)]
pub(super) enum Witness {
    Gate(GateHandle),
    Front(Sender<ToGate>),
}

/// The table in force, and the receiver of denials.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    witness: Witness,
    table: Arc<watch::Sender<Table>>,
    /// Of peers that asked for something that they may not do.
    denials: Reports,
}

impl Authority {
    /// Only local peers may do anything.
    pub(super) fn new(witness: Witness) -> Self {
        let (table, _) = watch::channel(Table::default());
        Self { witness, table: Arc::new(table), denials: Reports::default() }
    }

    /// From now on these are the controllers, and these authorities vouch for them.
    pub(super) fn replace(&self, controllers: &[Controller], trusted: Trusted) {
        self.table.send_replace(Table { controllers: controllers.into(), trusted });
    }

    /// The peer's name, if it may do this.
    pub(super) fn authorize<T>(
        &self,
        request: &Request<T>,
        needs: Permission,
    ) -> Result<String, Status> {
        self.authorize_any(caller(request)?, &[needs])
    }

    /// The peer's name, if it may do one of these.
    pub(super) fn authorize_any(
        &self,
        caller: &Caller,
        any: &[Permission],
    ) -> Result<String, Status> {
        let identity = self.identity(caller);
        if any.iter().any(|needed| identity.may.contains(*needed)) {
            return Ok(identity.name);
        }
        Err(self.deny(&identity, any.first().map_or("", |needed| needed.word())))
    }

    /// Whether the peer may also do this.
    pub(super) fn may<T>(&self, request: &Request<T>, what: Permission) -> Result<bool, Status> {
        Ok(self.identity(caller(request)?).may.contains(what))
    }

    /// The peer's name, if it is root on this host.
    pub(super) fn authorize_root<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let caller = caller(request)?;
        let identity = self.identity(caller);
        if caller.who.is_root() {
            return Ok(identity.name);
        }
        Err(self.deny(&identity, ROOT))
    }

    /// Waits until the peer may not do this any more; returns why.
    pub(super) async fn lost(&self, caller: Caller, needs: Permission) -> Status {
        let mut table = self.table.subscribe();
        loop {
            let identity = self.identity(&caller);
            if !identity.may.contains(needs) {
                return self.deny(&identity, needs.word());
            }
            // The sender is in `self`.
            drop(tokio::time::timeout(LOOK, table.changed()).await);
        }
    }

    /// Whether one of these names of a certificate is a controller's.
    pub(super) fn knows(&self, names: &[String]) -> bool {
        let controllers = Arc::clone(&self.table.borrow().controllers);
        let known = controllers.iter().any(|controller| names.contains(&controller.identity));
        if !known {
            let identity = Identity::of_certificate(names, &controllers);
            self.report(&identity.name, CONNECTION);
        }
        known
    }

    /// Judges certificates by the present authorities; `None`: there are none.
    pub(super) fn chain_verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.table.borrow().trusted.authorities.as_ref().map(Authorities::verifier)
    }

    /// Reports each change of the table.
    pub(super) fn changes(&self) -> watch::Receiver<Table> {
        self.table.subscribe()
    }

    /// Writes the sums of denials that were not written one by one.
    pub(super) fn write_sums(&self, now: BootNanos) {
        for (by, more) in self.denials.sums(now) {
            tracing::warn!(by, reason = "not_permitted", more, "refused as often as this again");
        }
    }

    /// The peer's name and what it may do now.
    pub(super) fn identity(&self, caller: &Caller) -> Identity {
        let Table { controllers, trusted } = self.table.borrow().clone();
        let identity = caller.identity(&controllers);
        let Who::Certificate { chain, hub, .. } = &caller.who else { return identity };
        let now = sys::now().wall;
        let objection = match (hub, &trusted.authorities, &trusted.hubs) {
            (None, Some(authorities), _) => authorities.objection(chain, now),
            (None, None, _) => Some("the configuration has no [control]".into()),
            (Some(name), _, Some(hubs)) => hubs.objection(chain, name, now),
            (Some(_), _, None) => Some("the configuration has no [uplink]".into()),
        };
        match objection {
            Some(why) => Identity {
                name: format!("{} (certificate no longer accepted: {why})", identity.name),
                may: Permissions::default(),
            },
            None => identity,
        }
    }

    fn deny(&self, identity: &Identity, what: &'static str) -> Status {
        self.report(&identity.name, what);
        let Identity { name, may } = identity;
        let may = match may.to_string() {
            none if none.is_empty() => "nothing".to_owned(),
            some => some,
        };
        let detail = format!(
            "{name} may do: {may}; this needs {what:?}. A [[controller]] section of the agent's \
             configuration says who may do what"
        );
        refused_status(&Refused::new(Refusal::NotPermitted, detail))
    }

    fn report(&self, name: &str, what: &'static str) {
        match &self.witness {
            Witness::Gate(gate) => {
                if self.denials.writes(name, sys::now().boot) {
                    let code = EventCode::NotPermitted.code();
                    tracing::warn!(
                        by = name,
                        reason = "not_permitted",
                        code,
                        "refused: it needs {what:?}"
                    );
                }
                gate.saw_denial(name, what);
            }
            Witness::Front(gate) => {
                let denied = Denied { by: name.to_owned(), asked: what.to_owned() };
                gate.send_if_room(&ToGate { said: Some(Said::Denied(denied)) });
            }
        }
    }

    /// Takes a denial that the front reports. `false`: nobody can ask for that.
    pub(super) fn take_report(&self, denied: &Denied) -> bool {
        let Denied { by, asked } = denied;
        let permissions = Permission::ALL.map(Permission::word);
        let known = permissions.into_iter().chain([CONNECTION, ROOT]).find(|one| one == asked);
        if let Some(what) = known {
            self.report(&printable::clean(by, MAX_NAME), what);
        }
        known.is_some()
    }
}

/// The peer at the other end of a call.
pub(super) fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .ok_or_else(|| Status::internal("a connection without a caller"))
}
