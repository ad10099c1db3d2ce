//! What a peer may do. The controllers and authorities are checked at each call. So a controller
//! that is removed, whose certificate ends or whose authority is removed loses all permissions,
//! also on open connections and streams.

use std::{sync::Arc, time::Duration};

use jit_proto::{
    Refusal,
    permission::{Permission, Permissions},
};
use tokio::sync::watch;
use tonic::{Request, Status};

use crate::{
    config::Controller,
    control::{
        server::{
            answer::refused_status,
            call::Call,
            peer::{Caller, Identity, Who},
        },
        tls::Authorities,
    },
    gate::GateHandle,
    rules::refusal::Refused,
    system::sys,
};

/// How often the certificate of an open stream is checked: it may have ended.
const LOOK: Duration = Duration::from_secs(60);

/// The controllers with their permissions, and the authorities that vouch for them.
#[derive(Clone, Debug, Default)]
struct Table {
    controllers: Arc<[Controller]>,
    authorities: Option<Authorities>,
}

/// The table in force, and the receiver of denials.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    gate: GateHandle,
    table: Arc<watch::Sender<Table>>,
}

impl Authority {
    /// Only local peers may do anything.
    pub(super) fn new(gate: GateHandle) -> Self {
        let (table, _) = watch::channel(Table::default());
        Self { gate, table: Arc::new(table) }
    }

    /// From now on these are the controllers, and these authorities vouch for them.
    pub(super) fn replace(&self, controllers: &[Controller], authorities: Option<Authorities>) {
        self.table.send_replace(Table { controllers: controllers.into(), authorities });
    }

    /// The peer's name, if it may do this.
    pub(super) fn authorize<T>(
        &self,
        request: &Request<T>,
        needs: Permission,
    ) -> Result<String, Status> {
        self.authorize_any(request, &[needs])
    }

    /// The peer's name, if it may do one of these.
    pub(super) fn authorize_any<T>(
        &self,
        request: &Request<T>,
        any: &[Permission],
    ) -> Result<String, Status> {
        let identity = self.identity(caller(request)?);
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
        Err(self.deny(&identity, "root on the host"))
    }

    /// Refuses a peer that may not make this call, before a byte of its request is read. So none of
    /// it is held in memory. A call that does not exist needs no permission.
    pub(super) fn may_call(&self, request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(call) = Call::noted(&request) {
            self.authorize_any(&request, call.needs)?;
        }
        Ok(request)
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

    fn identity(&self, caller: &Caller) -> Identity {
        let Table { controllers, authorities } = self.table.borrow().clone();
        let identity = caller.identity(&controllers);
        let Who::Certificate { chain, .. } = &caller.who else { return identity };
        let objection = match &authorities {
            Some(authorities) => authorities.objection(chain, sys::now().wall),
            None => Some("the configuration has no [control]".into()),
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

/// The peer at the other end of a call.
pub(super) fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .ok_or_else(|| Status::internal("a connection without a caller"))
}
