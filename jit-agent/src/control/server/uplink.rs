//! An uplink in the front: the connection that the gate's process made to a hub becomes one on which
//! the hub calls. It asks the proxy that may be between, makes the TLS handshake as its client, and
//! then serves like every other connection of a controller.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_proto::uplink::ALPN;
use rustls::{AlertDescription, CertificateError, Error as TlsError, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::{
    control::{
        link::Handed,
        server::{
            accept::{Entrance, identify},
            activity::{Activity, Stage},
            connect, verifier,
        },
        tls::Calling,
    },
    system::sys,
};

/// A TLS handshake that takes longer is cut off.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often a connection is looked at: one that is overdue is closed.
const TICK: Duration = Duration::from_secs(5);
/// The longest wait for the calls of an uplink that is to end.
const CALLS: Duration = Duration::from_secs(10);
const CALLS_TICK: Duration = Duration::from_millis(50);

/// Serves an uplink until it ends, or until `ended` is ready and its calls are done.
pub(crate) async fn uplink(
    entrance: Entrance,
    (handed, socket): (Handed, OwnedFd),
    calling: Option<Calling>,
    ended: oneshot::Receiver<()>,
) {
    let number = handed.uplink;
    let activity = Activity::new(Instant::now());
    activity.keep();
    match admit(&entrance, &handed, socket, calling, &activity).await {
        Ok(place) => look_after(&entrance, place, &activity, ended).await,
        Err(why) => entrance.upstream().report_unlinked(number, why),
    }
}

/// The number of its place. The error says why there is none.
async fn admit(
    entrance: &Entrance,
    handed: &Handed,
    socket: OwnedFd,
    calling: Option<Calling>,
    activity: &Activity,
) -> Result<u64, String> {
    let Handed { uplink, host, through } = handed;
    let connected = sys::now().boot;
    let calling = calling.ok_or("the certificates of [uplink] cannot be used")?;
    let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
    let config = verifier::for_hubs(&calling, entrance.upstream().authority());
    let config = config.map_err(|error| error.to_string())?;
    let stream = TcpStream::from_std(socket.into()).map_err(|error| error.to_string())?;
    let stream = match through {
        None => stream,
        Some(through) => connect::through(stream, through).await?,
    };
    let handshake = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
    let stream = timeout(HANDSHAKE, handshake)
        .await
        .map_err(|_| "the TLS handshake was not done within 5 s".to_owned())?
        .map_err(|error| explain(&error))?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err("it does not speak the uplink's protocol (ALPN): is it a hub?".into());
    }
    let stream = TlsStream::from(stream);
    let caller = identify(&stream, connected, Some(name));
    entrance.admit(stream, caller, activity.clone(), Some(*uplink)).await
}

async fn look_after(
    entrance: &Entrance,
    place: u64,
    activity: &Activity,
    mut ended: oneshot::Receiver<()>,
) {
    let places = entrance.upstream().places();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while places.is_open(place) {
        tokio::select! {
            _ = tick.tick() => {
                if activity.overdue(Instant::now()).is_some() {
                    places.close(place);
                }
            }
            _ = &mut ended => {
                let works = || activity.rank().is_some_and(|rank| rank != Stage::Watching);
                let until = Instant::now() + CALLS;
                while works() && Instant::now() < until && places.is_open(place) {
                    sleep(CALLS_TICK).await;
                }
                places.close(place);
            }
        }
    }
}

/// Why a handshake failed, and what to do.
fn explain(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    let Some(tls) = tls else { return format!("the TLS handshake failed: {error}") };
    match tls {
        TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
            "no name of its certificate is a [[controller]]'s: add one to the configuration, with \
             what the hub may do"
                .into()
        }
        TlsError::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "its certificate does not come from a CA of [uplink] ca: use the CA that issued it, or \
              find out who answers there"
                .into()
        }
        TlsError::InvalidCertificate(
            cause @ (CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. }),
        ) => format!(
            "its certificate does not bear its name ({cause}): write the name that it bears in \
             [uplink] hubs, or issue it with this one"
        ),
        TlsError::InvalidCertificate(cause) => {
            format!("its certificate is not acceptable: {cause}")
        }
        TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "it does not speak the uplink's protocol (ALPN): is it a hub?".into()
        }
        TlsError::AlertReceived(alert) => format!("it refused the connection: TLS alert {alert:?}"),
        TlsError::InvalidMessage(_) | TlsError::PeerIncompatible(_) => {
            format!("it does not speak TLS 1.3 ({tls}): is it a hub?")
        }
        _ => format!("the TLS handshake failed: {tls}"),
    }
}
