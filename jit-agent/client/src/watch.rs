//! The live view of `status` on a terminal: asks again each second, draws, and does what keys say.

use std::{
    env,
    io::{self, IsTerminal as _},
    process, thread,
    time::{Duration, Instant},
};

use crossterm::event::{self, Event, KeyEvent};
use jit_proto::v1;
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    signal::unix::{Signal as Signals, SignalKind, signal},
    sync::mpsc::{self, Receiver, Sender},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    exit::Exit,
    status::{
        Page, Style,
        live::{After, Live, uncertain},
    },
    terminal::{Terminal, give_back},
};

/// How often the agent is asked, and the screen drawn.
const EVERY: Duration = Duration::from_secs(1);
/// After a signal to end: the longest wait for a terminal that takes nothing.
const STALLED: Duration = Duration::from_millis(500);
/// Keys, signals and answers that wait.
const WAITING: usize = 256;

/// What the view waits for.
enum News {
    Answer(Box<v1::StatusResponse>),
    End,
    Key(KeyEvent),
    Resize,
    Resume,
    Suspend,
}

/// Why there can be no live view; `None`: there can.
pub fn unusable() -> Option<&'static str> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Some(
            "--watch needs a terminal for its keys and its screen; in a pipe or a script use `status` or \
             `status --json`",
        );
    }
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    dumb.then_some(
        "--watch needs a terminal that can move the cursor, and TERM is dumb; use `status`",
    )
}

/// The status of an agent of which nothing can be known now, for this reason.
pub fn unknown(host: String, problem: String) -> v1::StatusResponse {
    uncertain(v1::StatusResponse { host, ..v1::StatusResponse::default() }, problem)
}

/// Shows the view until a person or a signal ends it. `ask` must give an answer each time: without an
/// agent, what else is known. Returns the last answer.
///
/// # Errors
/// The terminal cannot be used, or is gone.
pub async fn watch(
    style: Style,
    first: v1::StatusResponse,
    ask: impl AsyncFnMut() -> v1::StatusResponse,
) -> io::Result<v1::StatusResponse> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let live = Live::new(first, Instant::now());
    let terminal = Terminal::take()?;
    follow_signals(sender.clone())?;
    follow_keys(sender.clone());
    tokio::select! {
        shown = show(terminal, live, style, receiver) => shown,
        () = keep_asking(ask, sender) => Err(io::Error::other("the view has ended")),
    }
}

/// Draws after each piece of news, and each second.
async fn show(
    mut terminal: Terminal,
    mut live: Live,
    style: Style,
    mut news: Receiver<News>,
) -> io::Result<v1::StatusResponse> {
    let mut suspended = false;
    loop {
        if !suspended {
            terminal.draw(&live.draw(Instant::now(), page(style)))?;
        }
        let mut next = timeout(EVERY, news.recv()).await.ok().flatten();
        // All that has come, before it is drawn again.
        while let Some(one) = next {
            match one {
                News::Answer(status) => live.answer(*status, Instant::now()),
                News::End => return Ok(live.into_status()),
                News::Key(key) => match live.key(key) {
                    After::Draw => {}
                    After::Quit => return Ok(live.into_status()),
                    After::Suspend => suspended = suspend(),
                },
                News::Resize => {}
                News::Resume => {
                    terminal.retake()?;
                    suspended = false;
                }
                News::Suspend => suspended = suspend(),
            }
            next = news.try_recv().ok();
        }
    }
}

/// Gives the terminal back and stops this process, as Ctrl-Z does.
fn suspend() -> bool {
    give_back();
    kill_process(getpid(), Signal::STOP).is_ok()
}

fn page(style: Style) -> Page {
    let size = terminal_size::terminal_size();
    let (wide, high) = size.map_or((80, 24), |(wide, high)| (wide.0, high.0));
    Page {
        width: Some(wide.max(2).into()),
        height: Some(high.max(1).into()),
        ..Page::endless(style)
    }
}

async fn keep_asking(mut ask: impl AsyncFnMut() -> v1::StatusResponse, sender: Sender<News>) {
    let mut next = interval(EVERY);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    next.tick().await;
    loop {
        next.tick().await;
        if sender.send(News::Answer(Box::new(ask().await))).await.is_err() {
            return;
        }
    }
}

/// The thread waits in a read that nothing ends; it goes with the process.
fn follow_keys(sender: Sender<News>) {
    thread::spawn(move || {
        loop {
            let news = match event::read() {
                Ok(Event::Key(key)) => News::Key(key),
                Ok(Event::Resize(..)) => News::Resize,
                Ok(_) => continue,
                Err(_) => News::End,
            };
            let ended = matches!(news, News::End);
            if sender.blocking_send(news).is_err() || ended {
                return;
            }
        }
    });
}

/// A thread of its own: the view's may wait for a terminal that takes nothing.
fn follow_signals(sender: Sender<News>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let caught = {
        let _entered = runtime.enter();
        Caught::new()?
    };
    thread::spawn(move || runtime.block_on(caught.forward(sender)));
    Ok(())
}

/// The signals that would otherwise leave the terminal as the view has it.
struct Caught {
    end: [Signals; 4],
    resume: Signals,
    suspend: Signals,
}

impl Caught {
    fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
        ];
        let [hangup, interrupt, quit, terminate] = kinds.map(signal);
        Ok(Self {
            end: [hangup?, interrupt?, quit?, terminate?],
            resume: signal(SignalKind::from_raw(Signal::CONT.as_raw()))?,
            suspend: signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?,
        })
    }

    async fn forward(self, sender: Sender<News>) {
        let Self { end: [mut hangup, mut interrupt, mut quit, mut terminate], .. } = self;
        let (mut resume, mut suspend) = (self.resume, self.suspend);
        loop {
            let news = tokio::select! {
                _ = hangup.recv() => News::End,
                _ = interrupt.recv() => News::End,
                _ = quit.recv() => News::End,
                _ = terminate.recv() => News::End,
                _ = resume.recv() => News::Resume,
                _ = suspend.recv() => News::Suspend,
            };
            let ends = matches!(news, News::End);
            let sent = timeout(STALLED, sender.send(news)).await;
            if ends {
                tokio::time::sleep(STALLED).await;
                give_back();
                process::exit(Exit::Unavailable.code().into());
            }
            if matches!(sent, Ok(Err(_))) {
                return;
            }
        }
    }
}
