//! What a peer may do, by the table of controllers as it stands at each call: whoever is taken out of
//! it keeps nothing, also on connections and streams that are open.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Status};

use crate::{
    config::{Controller, Permissions},
    gate::GateHandle,
    refusal::{Refusal, Refused},
    server::{
        peer::{Caller, Identity},
        refused_status,
    },
};

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    Grant,
    Policy,
    Read,
    Revoke,
}

impl May {
    const fn word(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Policy => "policy",
            Self::Read => "read",
            Self::Revoke => "revoke",
        }
    }

    const fn is_in(self, permissions: Permissions) -> bool {
        let Permissions { grant, policy, read, revoke } = permissions;
        match self {
            Self::Grant => grant,
            Self::Policy => policy,
            Self::Read => read,
            Self::Revoke => revoke,
        }
    }
}

/// The table of controllers, and who hears of what is denied.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    gate: GateHandle,
    table: Arc<watch::Sender<Arc<[Controller]>>>,
}

impl Authority {
    /// Nobody but local peers may do anything.
    pub(super) fn new(gate: GateHandle) -> Self {
        let (table, _) = watch::channel(Arc::from([]));
        Self { gate, table: Arc::new(table) }
    }

    /// From here on this is the table.
    pub(super) fn replace(&self, controllers: &[Controller]) {
        self.table.send_replace(controllers.into());
    }

    /// The peer's name, if it may do this.
    pub(super) fn authorize<T>(&self, request: &Request<T>, may: May) -> Result<String, Status> {
        self.authorize_any(request, &[may])
    }

    /// The peer's name, if it may do one of these.
    pub(super) fn authorize_any<T>(
        &self,
        request: &Request<T>,
        any: &[May],
    ) -> Result<String, Status> {
        let identity = self.identity(caller(request)?);
        if any.iter().any(|may| may.is_in(identity.may)) {
            return Ok(identity.name);
        }
        Err(self.deny(&identity, any.first().map_or("", |may| may.word())))
    }

    /// Turns a peer that may do nothing away before a byte of its request is read, so that none of it
    /// is held in memory.
    pub(super) fn known_peer(&self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.identity(caller(&request)?).may == Permissions::default() {
            self.authorize(&request, May::Read)?;
        }
        Ok(request)
    }

    /// Waits until the peer may not do this any more; tells why.
    pub(super) async fn lost(&self, caller: Caller, may: May) -> Status {
        let mut table = self.table.subscribe();
        loop {
            let identity = self.identity(&caller);
            if !may.is_in(identity.may) {
                return self.deny(&identity, may.word());
            }
            if table.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn identity(&self, caller: &Caller) -> Identity {
        let table = Arc::clone(&self.table.borrow());
        caller.identity(&table)
    }

    fn deny(&self, identity: &Identity, what: &'static str) -> Status {
        let Identity { name, may } = identity;
        tracing::warn!(by = name, reason = "not_permitted", "refused: it needs {what:?}");
        self.gate.saw_denial(name, what);
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
}

/// Who is at the other end of a call.
pub(super) fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .ok_or_else(|| Status::internal("a connection without a caller"))
}
