//! The connection to one host, shared by who follows the host and who delivers to it. The host's follower
//! makes it and makes it again; others only use it.

use jit_client::Agent;
use tokio::sync::{Notify, watch};

/// How the connection stands.
#[derive(Clone)]
pub(super) enum Line {
    /// It is being made, or made again after it broke: nothing is known yet.
    Connecting,
    /// It cannot be made; a sentence says why.
    Down(String),
    /// It is there.
    Up(Agent),
}

/// The connection to one host.
pub(super) struct Link {
    line: watch::Sender<Line>,
    /// Somebody wants it now: the follower does not wait for its next attempt.
    wanted: Notify,
    /// A call got no answer: the follower looks whether the agent is still there.
    doubted: Notify,
}

impl Default for Link {
    fn default() -> Self {
        let (line, _) = watch::channel(Line::Connecting);
        Self { line, wanted: Notify::new(), doubted: Notify::new() }
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
            Line::Up(agent) => Ok(agent),
            Line::Down(why) => Err(why),
            Line::Connecting => Err("the connection to it is being made".into()),
        }
    }

    pub(super) fn set(&self, line: Line) {
        self.line.send_replace(line);
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
