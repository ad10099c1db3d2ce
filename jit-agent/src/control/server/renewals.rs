//! Hubs that have the certificate of `[uplink]` renewed: who may, and the way to the keeper of the
//! certificates, who answers (`app::control`).

use std::sync::{Arc, Mutex, PoisonError};

use jit_proto::{permission::Permission, v1};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use crate::control::server::authority::{Authority, caller};

/// Calls that wait for the keeper.
const WAITING: usize = 4;

/// What a hub asks for.
#[derive(Debug)]
pub enum Renewing {
    /// A request for the next certificate.
    Request(oneshot::Sender<v1::RequestCertificateResponse>),
    /// The next certificate.
    Install {
        /// DER.
        certificate: Vec<u8>,
        /// The hub.
        by: String,
        /// Where the answer goes.
        reply: oneshot::Sender<v1::InstallCertificateResponse>,
    },
}

/// The way to the keeper of the certificates. Clones share it.
#[derive(Clone, Debug)]
pub struct Renewals {
    asks: mpsc::Sender<Renewing>,
    asked: Arc<Mutex<Option<mpsc::Receiver<Renewing>>>>,
}

impl Default for Renewals {
    fn default() -> Self {
        let (asks, asked) = mpsc::channel(WAITING);
        Self { asks, asked: Arc::new(Mutex::new(Some(asked))) }
    }
}

impl Renewals {
    /// The keeper's end. Called once.
    pub fn take(&self) -> Option<mpsc::Receiver<Renewing>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) async fn request(
        &self,
        authority: &Authority,
        request: &Request<v1::RequestCertificateRequest>,
    ) -> Result<Response<v1::RequestCertificateResponse>, Status> {
        hub(authority, request)?;
        self.ask(Renewing::Request).await
    }

    pub(super) async fn install(
        &self,
        authority: &Authority,
        request: Request<v1::InstallCertificateRequest>,
    ) -> Result<Response<v1::InstallCertificateResponse>, Status> {
        let by = hub(authority, &request)?;
        let certificate = request.into_inner().certificate.to_vec();
        self.ask(|reply| Renewing::Install { certificate, by, reply }).await
    }

    async fn ask<A>(
        &self,
        asked: impl FnOnce(oneshot::Sender<A>) -> Renewing,
    ) -> Result<Response<A>, Status> {
        let gone = || Status::unavailable("nobody keeps the certificates now");
        let (reply, answer) = oneshot::channel();
        self.asks.send(asked(reply)).await.map_err(|_| gone())?;
        answer.await.map(Response::new).map_err(|_| gone())
    }
}

/// The hub that calls; whoever has connected to the agent is none.
fn hub<T>(authority: &Authority, request: &Request<T>) -> Result<String, Status> {
    let caller = caller(request)?;
    let name = authority.authorize_any(caller, &Permission::ALL)?;
    if !caller.who.is_hub() {
        let why = "the agent did not make this connection: only a hub has its certificate renewed";
        return Err(Status::failed_precondition(why));
    }
    Ok(name)
}
