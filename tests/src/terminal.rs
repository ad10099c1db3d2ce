//! A terminal for a program that draws: a pseudo-terminal, and the screen as a person sees it.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    num::NonZero,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::netns::Namespace;

/// Longest wait for a screen that must come, unless a test has a bound of its own.
pub const SOON: Duration = Duration::from_secs(20);

/// A program on a terminal of its own. Dropped, it is killed.
pub struct Terminal {
    controller: File,
    parser: Arc<Mutex<vt100::Parser>>,
    child: Child,
    was_raw: bool,
}

impl Terminal {
    /// Starts a program on a terminal with this number of columns and lines.
    pub fn start(namespace: &Namespace, command: &Command, wide: u16, high: u16) -> Self {
        let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&pty).and_then(|()| unlockpt(&pty)).expect("unlock the terminal");
        tcsetwinsize(&pty, size(wide, high)).expect("set the size");
        let name = ptsname(&pty, Vec::new()).expect("the terminal's name");
        let name = name.into_string().expect("a name in ASCII");
        let end = || {
            let end = OpenOptions::new().read(true).write(true).open(&name);
            Stdio::from(end.expect("open the terminal"))
        };
        // The terminal becomes the program's own, so that a change of size reaches it. Signals end it as in a
        // real session, also where the tests run under nohup(1) or behind a shell's `&`, whose children
        // ignore some.
        let mut session = Command::new("env");
        session.args(["--default-signal", "setsid", "--ctty"]);
        session.arg(command.get_program()).args(command.get_args());
        session.stdin(end()).stdout(end()).stderr(end());
        session.env("TERM", "xterm-256color");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let controller = File::from(pty);
        let was_raw = is_raw(&controller);
        let parser = Arc::new(Mutex::new(vt100::Parser::new(lines(high), lines(wide), 0)));
        follow(controller.try_clone().expect("a second handle"), Arc::clone(&parser));
        let child = namespace.start(&mut session);
        Self { controller, parser, child, was_raw }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.controller.write_all(keys.as_bytes()).expect("write to the terminal");
    }

    /// Gives the terminal another size.
    pub fn resize(&self, wide: u16, high: u16) {
        self.parser().screen_mut().set_size(lines(high), lines(wide));
        tcsetwinsize(&self.controller, size(wide, high)).expect("set the size");
    }

    /// The lines on the screen.
    pub fn screen(&self) -> String {
        self.parser().screen().contents()
    }

    /// The first line on the screen.
    pub fn first_line(&self) -> String {
        self.screen().lines().next().unwrap_or_default().to_owned()
    }

    /// Whether something on the screen has a colour or is bold.
    pub fn is_coloured(&self) -> bool {
        let parser = self.parser();
        let (high, wide) = parser.screen().size();
        (0..high.get()).any(|row| {
            (0..wide.get()).any(|column| {
                let cell = parser.screen().cell(row, column);
                cell.is_some_and(|cell| cell.bold() || cell.fgcolor() != vt100::Color::Default)
            })
        })
    }

    /// Waits for a screen. Returns how long it took.
    #[track_caller]
    pub fn wait_for(&self, is_it: impl Fn(&str) -> bool) -> Duration {
        let began = Instant::now();
        while !is_it(&self.screen()) {
            assert!(began.elapsed() < SOON, "it never came; on the screen is:\n{}", self.screen());
            thread::sleep(Duration::from_millis(5));
        }
        began.elapsed()
    }

    /// The program has the terminal for itself: raw keys, the alternate screen, no cursor.
    pub fn is_taken(&self) -> bool {
        let parser = self.parser();
        is_raw(&self.controller)
            && parser.screen().alternate_screen()
            && parser.screen().hide_cursor()
    }

    /// The terminal is as it was before the program.
    pub fn is_given_back(&self) -> bool {
        let parser = self.parser();
        is_raw(&self.controller) == self.was_raw
            && !parser.screen().alternate_screen()
            && !parser.screen().hide_cursor()
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the program");
    }

    /// Whether the program is stopped.
    pub fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the program") {
                return status;
            }
            assert!(began.elapsed() < SOON, "it does not end:\n{}", self.screen());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Reads until the last program has closed the terminal.
fn follow(mut controller: File, parser: Arc<Mutex<vt100::Parser>>) {
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        loop {
            match controller.read(&mut bytes) {
                Ok(length) => {
                    let mut parser = parser.lock().unwrap_or_else(PoisonError::into_inner);
                    parser.process(bytes.get(..length).unwrap_or_default());
                }
                // Until the program has opened it, or when it has ended.
                Err(_) if Arc::strong_count(&parser) > 1 => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return,
            }
        }
    });
}

fn is_raw(terminal: &File) -> bool {
    let modes = tcgetattr(terminal).expect("the terminal's modes").local_modes;
    !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

fn lines(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has lines and columns")
}

const fn size(wide: u16, high: u16) -> Winsize {
    Winsize { ws_row: high, ws_col: wide, ws_xpixel: 0, ws_ypixel: 0 }
}
