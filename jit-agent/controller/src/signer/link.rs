//! The controller's side of one process of the signer: starts it, starts it again when it ends, and matches
//! answers with what was asked.
//!
//! A thread of its own does it, with a small runtime: the kernel ends the process when the *thread* that
//! started it ends, and a runtime's other threads come and go.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};

use jit_proto::{payload_type::CHECKPOINT_TYPE, v1};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    runtime::Builder,
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    KeyInfo, SignerError,
    protocol::{self, Answer, Ask, FromSigner, ToSigner},
    settings::{Purpose, Settings},
};
use crate::enrol::issue::Issued;

/// Longest wait for a signature, from the call on. A signer that does not start is answered for at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for the start: a key service must be reached.
const START: Duration = Duration::from_secs(60);
/// A signer that does not answer for this time is ended and started again.
const HANGS: Duration = Duration::from_secs(75);
/// The first wait after an end, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked, during a start, whether anybody needs it still.
const LOOK: Duration = Duration::from_millis(200);
/// A signer that ran for this time, or has answered, has not failed at once.
const RAN_WELL: Duration = Duration::from_secs(10);
/// What may wait to be signed.
const QUEUE: usize = 256;
/// What the process has at once: the rest waits here, and survives its end.
const IN_FLIGHT: usize = 4;

/// A process of the signer. The last one that is dropped ends it.
#[derive(Clone, Debug)]
pub(super) struct Line(mpsc::Sender<Asked>);

/// What is known of the processes, shared by those who keep them.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<RwLock<Known>>);

#[derive(Debug, Default)]
struct Known {
    processes: BTreeMap<Purpose, Process>,
    /// Two of them have the same key: which, in words.
    clash: Option<String>,
}

/// What is known of a process of the signer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its keys, in the order of the settings; empty: it has not been open yet.
    pub keys: Vec<KeyInfo>,
    /// Its id; `None`: it is about to be started.
    pub pid: Option<u32>,
    /// Why it did not start the last time; empty: it did.
    pub trouble: String,
}

/// Something to sign, and where its answer goes.
#[derive(Debug)]
struct Asked {
    ask: Ask,
    until: Instant,
    answer: Reply,
}

/// What the signer has made.
#[derive(Debug)]
pub(super) enum Made {
    Certificate(Issued),
    Checkpoint(v1::Envelope),
    Signatures(Vec<v1::Signature>),
}

type Asks = mpsc::Receiver<Asked>;
type Reply = oneshot::Sender<Result<Made, SignerError>>;

impl Line {
    /// Starts the process for this purpose. It is tried until it can be; the outcome of the first attempt
    /// comes through what is returned with it.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(super) fn start(
        program: &Path,
        purpose: Purpose,
        settings: Settings,
        seen: &Seen,
    ) -> io::Result<(Self, oneshot::Receiver<Result<(), String>>)> {
        let (asks, asked) = mpsc::channel(QUEUE);
        let (started, start) = oneshot::channel();
        let seen = seen.clone();
        seen.change(purpose, |_| {});
        let keeper = Keeper { program: program.to_owned(), purpose, settings, seen };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name(format!("signs {}", purpose.words()))
            .spawn(move || runtime.block_on(keeper.run(asked, started)))?;
        Ok((Self(asks), start))
    }

    pub(super) async fn ask(&self, ask: Ask) -> Result<Made, SignerError> {
        let gone = || SignerError::Unavailable("it has ended".into());
        let late = || SignerError::Unavailable("it did not answer in time".into());
        let until = Instant::now() + PATIENCE;
        let (answer, answered) = oneshot::channel();
        let asked = Asked { ask, until, answer };
        timeout_at(until, self.0.send(asked)).await.map_err(|_| late())?.map_err(|_| gone())?;
        timeout_at(until, answered).await.map_err(|_| late())?.map_err(|_| gone())?
    }
}

impl Seen {
    pub(super) fn all(&self) -> BTreeMap<Purpose, Process> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).processes.clone()
    }

    /// Which key two of them have, in words.
    pub(super) fn clash(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clash.clone()
    }

    fn change(&self, of: Purpose, change: impl FnOnce(&mut Process)) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(known.processes.entry(of).or_default());
    }

    /// Keeps what a process has that is open now. No key may be another process's, too.
    fn opened(&self, of: Purpose, process: Process) -> Result<(), String> {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (other, open) in known.processes.iter().filter(|(other, _)| **other != of) {
            let is_open = |key: &&KeyInfo| open.keys.iter().any(|one| one.key_id == key.key_id);
            if let Some(KeyInfo { kind, key_id, .. }) = process.keys.iter().find(is_open) {
                let [one, other] = [of.words(), other.words()];
                let why = format!(
                    "the {kind} key {key_id} of {one} is the same key as another one: it signs {other}, \
                     too; take one of its own for each"
                );
                known.clash = Some(why.clone());
                return Err(why);
            }
        }
        known.processes.insert(of, process);
        Ok(())
    }
}

/// What the thread does.
struct Keeper {
    program: PathBuf,
    purpose: Purpose,
    settings: Settings,
    seen: Seen,
}

/// How the process ended.
enum End {
    /// The controller does not need it any more.
    Dropped,
    /// It must be started again.
    Lost(String),
}

impl Keeper {
    async fn run(self, mut asked: Asks, started: oneshot::Sender<Result<(), String>>) {
        let (signs, mut started) = (self.purpose.words(), Some(started));
        let mut wait = FIRST_WAIT;
        loop {
            let begun = tokio::select! {
                running = self.start() => running,
                () = nobody_asks(&asked) => return,
            };
            let mut running = match begun {
                Ok(running) => running,
                Err(why) => {
                    self.seen.change(self.purpose, |process| process.trouble.clone_from(&why));
                    let first = started.take().map(|started| started.send(Err(why.clone())));
                    if !matches!(first, Some(Ok(()))) {
                        warn!("the signer of {signs} does not start: {why}");
                    }
                    if !self.pause(wait, &mut asked, Some(&why)).await {
                        return;
                    }
                    wait = (wait * 2).min(LONGEST_WAIT);
                    continue;
                }
            };
            let first = started.take().map(|started| started.send(Ok(())));
            if !matches!(first, Some(Ok(()))) {
                info!("the signer of {signs} is there");
            }
            let since = Instant::now();
            let end = running.serve(&mut asked).await;
            let running_well = running.answers > 0;
            self.seen.change(self.purpose, |process| process.pid = None);
            running.end().await;
            let End::Lost(why) = end else { return };
            warn!("the signer of {signs} has ended, and is started again: {why}");
            if since.elapsed() >= RAN_WELL || running_well {
                wait = FIRST_WAIT;
            }
            if !self.pause(wait, &mut asked, None).await {
                return;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Waits before a start. If the last one has failed, whoever asks meanwhile gets the reason at once.
    /// Returns whether anybody needs the signer still.
    async fn pause(&self, wait: Duration, asked: &mut Asks, failed: Option<&str>) -> bool {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = sleep_until(until) => return !asked.is_closed(),
                one = asked.recv(), if failed.is_some() => {
                    let Some(one) = one else { return false };
                    let why = format!("it does not start: {}", failed.unwrap_or_default());
                    let _nobody_waits = one.answer.send(Err(SignerError::Unavailable(why)));
                }
            }
        }
    }

    /// Starts a process, and waits until its keys are open.
    async fn start(&self) -> Result<Running, String> {
        let failed = |error: io::Error| format!("cannot start the signer: {error}");
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let child = Command::new(&self.program)
            .arg("signer")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let group = Group::of(&child);
        let (mut read, mut write) = UnixStream::from_std(ours).map_err(failed)?.into_split();
        let open = ToSigner::Open(Box::new(self.settings.clone()));
        let opened = async {
            write.write_all(&protocol::encode(&open)?).await?;
            next(&mut read).await
        };
        let first = timeout(START, opened).await;
        let keys = match first.map_err(|_| "the signer does not answer after its start")? {
            Ok(FromSigner::Ready { keys }) => keys,
            Ok(FromSigner::Failed(why)) => return Err(why),
            Ok(FromSigner::Answer { .. }) => return Err("the signer is of another version".into()),
            Err(error) => return Err(failed(error)),
        };
        let trouble = String::new();
        self.seen.opened(self.purpose, Process { keys, pid: child.id(), trouble })?;
        // A read that is given up loses bytes: a task of its own reads.
        let (answers, answered) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let answer = next(&mut read).await;
                let is_end = answer.is_err();
                if answers.send(answer).await.is_err() || is_end {
                    return;
                }
            }
        });
        let waiting = HashMap::new();
        Ok(Running { child, _group: group, write, answered, number: 0, answers: 0, waiting })
    }
}

/// A process, and the programs that it has started. They end with this: one that hangs does not end by
/// itself, and each start of the signer would leave another.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: &Child) -> Self {
        let id = leader.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // All of them may have ended.
            let _gone = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// A process that is open.
struct Running {
    child: Child,
    _group: Group,
    write: OwnedWriteHalf,
    answered: mpsc::Receiver<io::Result<FromSigner>>,
    number: u64,
    /// Number of signatures and refusals; what is to be tried again is none.
    answers: u64,
    /// What it was asked, and when.
    waiting: HashMap<u64, (Instant, Reply)>,
}

impl Running {
    async fn serve(&mut self, asked: &mut Asks) -> End {
        loop {
            let oldest = self.waiting.values().map(|(since, _)| *since).min();
            let hangs = oldest.unwrap_or_else(Instant::now) + HANGS;
            tokio::select! {
                one = asked.recv(), if self.waiting.len() < IN_FLIGHT => {
                    let Some(one) = one else { return End::Dropped };
                    if let Err(why) = self.send(one).await {
                        return End::Lost(why);
                    }
                }
                answer = self.answered.recv() => match answer {
                    Some(Ok(FromSigner::Answer { number, answer })) => self.give(number, answer),
                    Some(Ok(_)) => return End::Lost("it has said what was not expected".into()),
                    Some(Err(error)) => return End::Lost(error.to_string()),
                    None => return End::Lost("its connection was closed".into()),
                },
                () = sleep_until(hangs), if oldest.is_some() => {
                    return End::Lost(format!("it did not answer for {} s", HANGS.as_secs()));
                }
            }
        }
    }

    async fn send(&mut self, Asked { ask, until, answer }: Asked) -> Result<(), String> {
        if answer.is_closed() || until <= Instant::now() {
            return Ok(());
        }
        self.number += 1;
        let number = self.number;
        let message = match protocol::encode(&ToSigner::Ask { number, ask }) {
            Ok(message) => message,
            Err(why) => {
                let (word, detail) = ("malformed".to_owned(), why.to_string());
                let _nobody_waits = answer.send(Err(SignerError::Refused { word, detail }));
                return Ok(());
            }
        };
        self.waiting.insert(number, (Instant::now(), answer));
        match timeout(HANGS, self.write.write_all(&message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it did not read for {} s", HANGS.as_secs())),
        }
    }

    fn give(&mut self, number: u64, answer: Answer) {
        let Some((_, to)) = self.waiting.remove(&number) else { return };
        let result = match answer {
            Answer::Checkpoint { payload, signatures } => Ok(Made::Checkpoint(v1::Envelope {
                payload_type: CHECKPOINT_TYPE.into(),
                payload: payload.into(),
                signatures: signatures.into_iter().map(Into::into).collect(),
            })),
            Answer::Issued(issued) => Ok(Made::Certificate(issued)),
            Answer::Signed(signatures) => {
                Ok(Made::Signatures(signatures.into_iter().map(Into::into).collect()))
            }
            Answer::Refused { word, detail } => Err(SignerError::Refused { word, detail }),
            Answer::Unavailable(why) => Err(SignerError::Unavailable(why)),
        };
        if !matches!(result, Err(SignerError::Unavailable(_))) {
            self.answers += 1;
        }
        let _nobody_waits = to.send(result);
    }

    /// Ends the process. What it was asked is to be tried again: the journal knows what it has signed.
    async fn end(self) {
        let Self { mut child, _group, write, answered, waiting, .. } = self;
        for (_, answer) in waiting.into_values() {
            let why = "it ended before it answered";
            let _nobody_waits = answer.send(Err(SignerError::Unavailable(why.into())));
        }
        drop((write, answered));
        // It ends by itself when the connection is closed.
        if timeout(Duration::from_secs(1), child.wait()).await.is_err() {
            let _ended = child.kill().await;
        }
    }
}

/// Ends when nobody is left who could ask.
async fn nobody_asks(asked: &Asks) {
    while !asked.is_closed() {
        sleep(LOOK).await;
    }
}

async fn next(read: &mut OwnedReadHalf) -> io::Result<FromSigner> {
    let mut head = [0; 4];
    read.read_exact(&mut head).await?;
    let mut json = vec![0; protocol::length(head)?];
    read.read_exact(&mut json).await?;
    protocol::decode(&json)
}
