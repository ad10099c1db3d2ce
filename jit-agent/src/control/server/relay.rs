//! The gate's end of its front: takes in what the front passes on, answers it, and believes nothing
//! of it. Whose connection it is, the certificates say: they are judged here at each call, so that the
//! front can stand for no controller whose certificate it has not met. A front that breaks the rules,
//! or does not answer, is ended; the gate goes on without it.

mod answers;
mod lines;

use std::{
    collections::HashMap,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustls::pki_types::CertificateDer;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::{
    control::{
        link::{
            Called, Opened, Order, Said, Setup, ToFront, ToGate, Unlinked,
            pipe::{Receiver, Sender, pipe},
        },
        server::{
            call::Call,
            heartbeat::Heartbeat,
            http2::MAX_STREAMS,
            intake::{BYTES_OF_ALL, PREFIX, SMALL},
            peer::{Caller, Who},
            places::MAX_CONNECTIONS,
            relay::{
                answers::{Answers, Asked},
                lines::Lines,
            },
            service::Service,
        },
        tls,
    },
    rules::clock::BootNanos,
    system::{meters::meters, sys},
};

/// The most questions whether it answers that a front leaves without an answer.
const MAX_UNANSWERED: u64 = 2;
/// The longest wait for the answer to a setup.
const SETUP: Duration = Duration::from_secs(5);
/// Largest number of certificates of a peer, and of their bytes (a TLS handshake has no more).
const MAX_CHAIN: usize = 16;
const MAX_CHAIN_BYTES: usize = 64 * 1024;
/// Largest number of calls at once, and of the bytes of their requests: what a good front lets in.
const MAX_CALLS: usize = MAX_CONNECTIONS * MAX_STREAMS as usize;
const MAX_BYTES: usize = BYTES_OF_ALL + MAX_CALLS * SMALL;

/// What a front may not do.
type Broken = &'static str;

/// A front that runs, as the gate sees it. Dropped: nothing of it is served any more.
#[derive(Debug)]
pub struct Fronted {
    sender: Sender<ToFront>,
    ready: watch::Receiver<(u64, String)>,
    task: JoinHandle<String>,
    /// What the gate saw of its end.
    seen: Option<String>,
    asked: u64,
}

impl Fronted {
    /// Serves the front at the other end of this socket.
    ///
    /// # Errors
    /// The socket cannot be used.
    pub fn new(socket: UnixStream, service: &Service) -> std::io::Result<Self> {
        let (sender, receiver) = pipe(socket)?;
        let (said, ready) = watch::channel((0, String::new()));
        let relay = Relay {
            sender: sender.clone(),
            service: service.clone(),
            answers: Answers::new(sender.clone(), service.clone()),
            connections: HashMap::new(),
            lines: Lines::default(),
            ready: said,
            unanswered: Arc::default(),
        };
        let task = tokio::spawn(relay.run(receiver));
        Ok(Self { sender, ready, task, seen: None, asked: 0 })
    }

    /// From now on the front serves controllers by this. The error says why it does not.
    pub(crate) async fn set_up(&mut self, setup: Setup) -> Result<(), String> {
        self.sender.send(&ToFront { order: Some(Order::Setup(setup)) });
        self.asked += 1;
        let asked = self.asked;
        let answered = timeout(SETUP, self.ready.wait_for(|(answers, _)| *answers >= asked)).await;
        match answered {
            Ok(Ok(ready)) if ready.1.is_empty() => Ok(()),
            Ok(Ok(ready)) => Err(ready.1.clone()),
            Ok(Err(_)) => Err("it ended at once".into()),
            Err(_) => Err(format!("it did not answer within {} s", SETUP.as_secs())),
        }
    }

    /// Says what becomes of an uplink.
    pub(crate) fn uplink_orders(&self) -> impl Fn(u64, Fate) + Send + Sync + 'static {
        let sender = self.sender.clone();
        move |uplink, fate| {
            let order = match fate {
                Fate::Ends => Order::Unlink(uplink),
                Fate::IsUsed => Order::Use(uplink),
            };
            sender.send(&ToFront { order: Some(order) });
        }
    }

    /// Waits for the end of the front; returns what the gate saw of it.
    pub async fn ended(&mut self) -> String {
        // A task can be waited for once.
        if let Some(seen) = &self.seen {
            return seen.clone();
        }
        let ended = (&mut self.task).await;
        self.seen.insert(ended.unwrap_or_else(|error| error.to_string())).clone()
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Fronted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What becomes of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ends, when its calls are done.
    Ends,
    /// It was a spare one, and is used from now on.
    IsUsed,
}

struct Relay {
    sender: Sender<ToFront>,
    service: Service,
    answers: Answers,
    /// Controllers' connections.
    connections: HashMap<u64, Caller>,
    lines: Lines,
    /// Number of setups that were answered, and the last answer.
    ready: watch::Sender<(u64, String)>,
    /// Number of pings without an answer.
    unanswered: Arc<AtomicU64>,
}

impl Relay {
    async fn run(mut self, mut receiver: Receiver<ToGate>) -> String {
        let (sender, unanswered) = (self.sender.clone(), Arc::clone(&self.unanswered));
        let heartbeat = self.service.heartbeat().clone();
        tokio::select! {
            why = self.serve(&mut receiver) => why,
            error = sender.flush_forever() => format!("nothing can be sent to it: {error}"),
            () = unanswering(&heartbeat, &sender, &unanswered) => {
                format!("it did not answer {MAX_UNANSWERED} questions in turn")
            }
        }
    }

    async fn serve(&mut self, receiver: &mut Receiver<ToGate>) -> String {
        loop {
            let message = match receiver.next().await {
                Ok(message) => message,
                Err(error) => return error.to_string(),
            };
            let Some(said) = message.said else { return "it said nothing that is known".into() };
            if let Err(broken) = self.take(said) {
                return broken.to_owned();
            }
        }
    }

    fn take(&mut self, said: Said) -> Result<(), Broken> {
        match said {
            Said::Called(called) => self.call(called)?,
            Said::Cancelled(call) => self.answers.give_up(call),
            Said::Closed(connection) => {
                self.connections.remove(&connection);
                self.service.front().set_connections(self.connections.len());
            }
            Said::Denied(denied) => {
                if !self.service.authority().take_report(&denied) {
                    return Err("it reported a denial of something that nobody can ask for");
                }
            }
            Said::Failed(count) => {
                meters().connections_failed.inc_by(count.min(1));
            }
            Said::Keeps(what) => {
                self.service.front().set_keeps(jit_proto::printable::clean(&what, 200));
            }
            Said::Logged(line) => self.lines.write(&line, sys::now().boot),
            Said::Opened(opened) => self.open(opened)?,
            Said::Pong(_) => self.unanswered.store(0, Ordering::Relaxed),
            Said::Ready(problem) => {
                self.ready.send_modify(|(answers, last)| {
                    *answers = answers.saturating_add(1);
                    *last = jit_proto::printable::clean(&problem, 500);
                });
            }
            Said::Unlinked(Unlinked { uplink, why }) => {
                let why = jit_proto::printable::clean(&why, 300);
                self.service.uplinks().ended(uplink, why);
            }
            Said::Taken(call) => self.answers.taken(call)?,
            Said::Waits(uplink) => self.service.uplinks().waits(uplink),
        }
        Ok(())
    }

    fn open(&mut self, opened: Opened) -> Result<(), Broken> {
        let Opened { connection, chain, age, uplink } = opened;
        if self.connections.len() >= MAX_CONNECTIONS {
            return Err("it let in more connections than there are places");
        }
        let bytes: usize = chain.iter().map(prost::bytes::Bytes::len).sum();
        if chain.len() > MAX_CHAIN || bytes > MAX_CHAIN_BYTES {
            return Err("it passed on more certificates than a handshake has");
        }
        // Copies: the message is not kept for them.
        let chain: Arc<[_]> = chain.iter().map(|one| CertificateDer::from(one.to_vec())).collect();
        // One that nobody waits for any more may do nothing: it has no certificate.
        let hub = self.service.uplinks().host(uplink);
        let chain = if uplink != 0 && hub.is_none() { [].into() } else { chain };
        let names = chain.first().map(tls::names).unwrap_or_default();
        let connected = BootNanos(sys::now().boot.0.saturating_sub(age));
        let caller = Caller { who: Who::Certificate { names, chain, hub }, connected };
        if self.connections.insert(connection, caller).is_some() {
            return Err("it used the number of a connection twice");
        }
        self.service.uplinks().opened(uplink, sys::now().wall);
        self.service.front().set_connections(self.connections.len());
        Ok(())
    }

    fn call(&mut self, called: Called) -> Result<(), Broken> {
        let Called { call, connection, path, message } = called;
        let known = Call::of(&path).ok_or("it passed on a call that does not exist")?;
        if message.len() > known.largest.saturating_add(PREFIX) {
            return Err("it passed on a request that is larger than the call allows");
        }
        if self.answers.number() >= MAX_CALLS
            || self.answers.bytes().saturating_add(message.len()) > MAX_BYTES
        {
            return Err("it passed on more calls than it may take in");
        }
        let caller = self.connections.get(&connection).cloned();
        self.answers.begin(Asked { call, path, known, message, caller })
    }
}

/// Pings, until the front does not answer.
async fn unanswering(heartbeat: &Heartbeat, sender: &Sender<ToFront>, unanswered: &AtomicU64) {
    for number in 0.. {
        heartbeat.due().await;
        if unanswered.fetch_add(1, Ordering::Relaxed) >= MAX_UNANSWERED {
            return;
        }
        sender.send_if_room(&ToFront { order: Some(Order::Ping(number)) });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use prost::bytes::Bytes;
    use tokio::runtime::Builder;

    use super::*;
    use crate::{
        control::link::{Denied, encode},
        gate::{channel, journal::Journal},
    };

    /// What the gate says of a front that sends these bytes.
    fn end_of(bytes: &[u8]) -> String {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (handle, _requests) = channel(Arc::new(Journal::new("test".into())));
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut fronted = Fronted::new(near, &Service::new(handle)).unwrap();
            far.write_all(bytes).unwrap();
            timeout(Duration::from_secs(4), fronted.ended()).await.expect("it is ended")
        })
    }

    fn said(said: Said) -> Vec<u8> {
        encode(&ToGate { said: Some(said) }).to_vec()
    }

    fn opened(connection: u64, chain: Vec<Bytes>) -> Vec<u8> {
        said(Said::Opened(Opened { connection, chain, age: u64::MAX, uplink: 0 }))
    }

    fn called(path: &str, length: usize) -> Vec<u8> {
        let (path, message) = (path.to_owned(), Bytes::from(vec![0; length]));
        said(Said::Called(Called { call: 1, connection: 1, path, message }))
    }

    #[test]
    fn a_front_that_breaks_the_rules_is_ended() {
        let denied = Denied { by: "x".into(), asked: "everything".into() };
        let list = "/jit.v1.JitAgent/List";
        for (bytes, why) in [
            (vec![255; 64], "announced a message of 4294967295 bytes"),
            (vec![0, 0, 0, 2, 10, 99], "bytes that are no message"),
            (vec![0, 0, 0, 0], "said nothing that is known"),
            (called("/jit.v1.JitAgent/Open", 5), "a call that does not exist"),
            (called(list, 17 * 1024), "larger than the call allows"),
            ([called(list, 5), called(list, 5)].concat(), "the number of a call twice"),
            ([opened(1, Vec::new()), opened(1, Vec::new())].concat(), "a connection twice"),
            (opened(1, vec![Bytes::new(); MAX_CHAIN + 1]), "more certificates"),
            (opened(1, vec![vec![7; MAX_CHAIN_BYTES + 1].into()]), "more certificates"),
            ((0..=512).flat_map(|one| opened(one, Vec::new())).collect(), "there are places"),
            (said(Said::Denied(denied)), "nobody can ask for"),
        ] {
            let ended = end_of(&bytes);
            assert!(ended.contains(why), "{why}: {ended}");
        }
    }
}
