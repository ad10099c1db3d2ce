//! The connection to one host, shared by who follows the host and who delivers to it. The host's follower
//! makes it and makes it again, or takes one that the agent has made; others only use it.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jit_client::Agent;
use tokio::sync::{Notify, watch};

use super::connection::Connection;

/// Connections of the agent that wait for the follower, at most: the older ones are closed.
const ARRIVALS: usize = 2;
/// What was ended on thousands of hosts at once is stored within this time.
pub(super) const STORED: Duration = Duration::from_secs(5);
/// An alarm is written within this time.
const WRITTEN: Duration = Duration::from_secs(5);

/// How the connection stands.
#[derive(Clone)]
pub(super) enum Line {
    /// It is being made, or made again after it broke: nothing is known yet.
    Connecting,
    /// It cannot be made; a sentence says why.
    Down(String),
    /// It is there.
    Up(Box<Agent>),
}

/// The connection to one host.
pub(super) struct Link {
    line: watch::Sender<Line>,
    /// Somebody wants it now: the follower does not wait for its next attempt.
    wanted: Notify,
    /// A call got no answer: the follower looks whether the agent is still there.
    doubted: Notify,
    /// Connections that the agent has made.
    arrivals: Mutex<VecDeque<Connection>>,
    arrived: Notify,
    /// Somebody wants another connection in place of the one that is there.
    renewed: Notify,
    /// Number of connections so far.
    made: AtomicU64,
    /// Two machines are this host: when that was seen last.
    disputed: Mutex<Option<Instant>>,
    /// When the controller ended something there last.
    ends: Mutex<Option<Instant>>,
    /// Whether it has held a grant that had not begun.
    scheduled: AtomicBool,
}

impl Default for Link {
    fn default() -> Self {
        let (line, _) = watch::channel(Line::Connecting);
        Self {
            line,
            wanted: Notify::new(),
            doubted: Notify::new(),
            arrivals: Mutex::default(),
            arrived: Notify::new(),
            renewed: Notify::new(),
            made: AtomicU64::new(0),
            disputed: Mutex::default(),
            ends: Mutex::default(),
            scheduled: AtomicBool::new(false),
        }
    }
}

impl Link {
    /// How it stands now.
    pub(super) fn line(&self) -> Line {
        self.line.borrow().clone()
    }

    /// The connection, if it is there.
    pub(super) fn agent(&self) -> Result<Agent, String> {
        match self.line() {
            Line::Up(agent) => Ok(*agent),
            Line::Down(why) => Err(why),
            Line::Connecting => Err("the connection to it is being made".into()),
        }
    }

    pub(super) fn set(&self, line: Line) {
        if matches!(line, Line::Up(_)) {
            self.made.fetch_add(1, Ordering::Relaxed);
        }
        self.line.send_replace(line);
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(*self.line.borrow(), Line::Up(_))
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(*self.line.borrow(), Line::Down(_))
    }

    /// Number of connections so far: another number, another connection.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn arrivals(&self) -> MutexGuard<'_, VecDeque<Connection>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent has made a connection.
    pub(super) fn arrive(&self, uplink: Connection) {
        let mut arrivals = self.arrivals();
        if arrivals.len() >= ARRIVALS {
            arrivals.pop_front();
        }
        arrivals.push_back(uplink);
        drop(arrivals);
        self.arrived.notify_one();
    }

    /// Takes the next connection that the agent has made.
    pub(super) async fn arrival(&self) -> Connection {
        loop {
            match self.next_arrival() {
                Some(uplink) => return uplink,
                None => self.arrived.notified().await,
            }
        }
    }

    fn next_arrival(&self) -> Option<Connection> {
        let mut arrivals = self.arrivals();
        let next = arrivals.pop_front();
        // Thousands of links are empty nearly always.
        if arrivals.is_empty() {
            arrivals.shrink_to_fit();
        }
        next
    }

    /// Waits until there is one.
    pub(super) async fn arrived(&self) {
        while self.arrivals().is_empty() {
            self.arrived.notified().await;
        }
    }

    /// Closes those that nobody has taken.
    pub(super) fn turn_away(&self) {
        self.arrivals().clear();
    }

    /// Asks for another connection in place of the one that is there.
    pub(super) fn renew(&self) {
        self.renewed.notify_one();
    }

    pub(super) async fn renewed(&self) {
        self.renewed.notified().await;
    }

    /// Two machines are this host: nothing is opened until a person has looked.
    pub(super) fn dispute(&self) {
        *self.disputed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether two machines are this host. `alarmed`: the alarm that says so stands in the store.
    pub(super) fn is_disputed(&self, alarmed: bool) -> bool {
        let mut disputed = self.disputed.lock().unwrap_or_else(PoisonError::into_inner);
        if !alarmed && disputed.is_some_and(|at| at.elapsed() > WRITTEN) {
            *disputed = None;
        }
        disputed.is_some()
    }

    /// Whether that has to be asked at all.
    pub(super) fn may_be_disputed(&self) -> bool {
        self.disputed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The controller ends something there now.
    pub(super) fn ends(&self) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether that is so short ago that the store may not have all of it yet.
    pub(super) fn just_ended(&self) -> bool {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.is_some_and(|at| at.elapsed() < STORED)
    }

    /// The host holds a grant that has not begun.
    pub(super) fn schedules(&self) {
        self.scheduled.store(true, Ordering::Relaxed);
    }

    /// Whether the store may wait for one to begin there. For most hosts it never does.
    pub(super) fn may_begin(&self) -> bool {
        self.scheduled.load(Ordering::Relaxed)
    }

    /// Asks for an attempt now.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Says that a call got no answer.
    pub(super) fn doubt(&self) {
        self.doubted.notify_one();
    }

    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }
}
