//! An uplink in the front: the connection that the gate's process made to a hub becomes one on which
//! the hub calls. It asks the proxy that may be between, makes the TLS handshake as its client, and
//! then serves like every other connection of a controller. A spare one waits before that, until the gate
//! takes it into use.

use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use jit_proto::uplink::{ALPN, IN_USE, SPARE};
use rustls::{AlertDescription, CertificateError, Error as TlsError, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
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

/// Whether an uplink is used. Without a sender it is to end.
pub(crate) type Orders = watch::Receiver<bool>;

/// Serves an uplink until it ends, or until it is to end and its calls are done.
pub(crate) async fn uplink(
    entrance: Entrance,
    (handed, socket): (Handed, OwnedFd),
    calling: Option<Calling>,
    mut orders: Orders,
) {
    let number = handed.uplink;
    match admit(&entrance, &handed, socket, calling, &mut orders).await {
        Ok((place, activity)) => look_after(&entrance, place, &activity, orders).await,
        Err(why) => entrance.upstream().report_unlinked(number, why),
    }
}

/// The number of its place, and what happens there. The error says why there is none.
async fn admit(
    entrance: &Entrance,
    handed: &Handed,
    socket: OwnedFd,
    calling: Option<Calling>,
    orders: &mut Orders,
) -> Result<(u64, Activity), String> {
    let Handed { uplink, host, through, spare } = handed;
    let connected = sys::now().boot;
    let calling = calling.ok_or("the certificates of [uplink] cannot be used")?;
    let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
    let config = verifier::for_hubs(&calling, entrance.upstream().authority());
    let mut config = config.map_err(|error| error.to_string())?;
    let protocol = if *spare { SPARE } else { ALPN };
    config.alpn_protocols = vec![protocol.to_vec()];
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
    if stream.get_ref().1.alpn_protocol() != Some(protocol) {
        return Err("it does not speak the uplink's protocol (ALPN): is it a hub?".into());
    }
    let mut stream = TlsStream::from(stream);
    let caller = identify(&stream, connected, Some(name));
    if *spare {
        entrance.upstream().report_waiting(*uplink);
        wait(&mut stream, orders).await?;
    }
    let activity = Activity::new(Instant::now());
    activity.keep();
    let place = entrance.admit(stream, caller, activity.clone(), Some(*uplink)).await?;
    Ok((place, activity))
}

/// Waits until a spare uplink is used, and says so to the hub. The error says why it never is.
async fn wait(stream: &mut TlsStream<TcpStream>, orders: &mut Orders) -> Result<(), String> {
    let mut unasked = [0];
    tokio::select! {
        used = orders.wait_for(|used| *used) => {
            used.map_err(|_| "nobody needs it any more".to_owned())?;
        }
        read = stream.read(&mut unasked) => {
            return Err(match read {
                Ok(0) => "the hub closed the connection".to_owned(),
                Ok(_) => "the hub spoke on a connection that is not used".to_owned(),
                Err(error) => error.to_string(),
            });
        }
    }
    let said = async {
        stream.write_all(&[IN_USE]).await?;
        stream.flush().await
    };
    said.await.map_err(|error| error.to_string())
}

async fn look_after(entrance: &Entrance, place: u64, activity: &Activity, mut orders: Orders) {
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
            () = ended(&mut orders) => {
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

/// Waits until it is to end.
async fn ended(orders: &mut Orders) {
    while orders.changed().await.is_ok() {}
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
