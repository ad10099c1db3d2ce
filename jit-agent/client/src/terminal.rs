//! The terminal while a live view has it: raw keys and the alternate screen. Whatever ends the view
//! gives it back as it was.

use std::{
    io::{self, Stdout, Write as _},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    QueueableCommand as _,
    cursor::{Hide, MoveTo, Show},
    execute,
    style::Print,
    terminal::{
        BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap,
        EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
        enable_raw_mode,
    },
};

/// A view has the terminal.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal of standard output. Dropped, it is given back.
pub(crate) struct Terminal(Stdout);

impl Terminal {
    /// Takes the terminal.
    pub(crate) fn take() -> io::Result<Self> {
        give_back_in_panic();
        let mut terminal = Self(io::stdout());
        terminal.retake()?;
        Ok(terminal)
    }

    /// Takes it again, also when somebody has changed it meanwhile.
    pub(crate) fn retake(&mut self) -> io::Result<()> {
        // In the background this stops the process, before anything is drawn.
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::Relaxed);
        execute!(self.0, EnterAlternateScreen, Hide, DisableLineWrap, Clear(ClearType::All))
    }

    /// Draws a whole screen of lines.
    pub(crate) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        self.0.queue(BeginSynchronizedUpdate)?;
        for (line, row) in lines.iter().zip(0_u16..) {
            // Cleared first: a line may end in the last column.
            self.0.queue(MoveTo(0, row))?.queue(Clear(ClearType::UntilNewLine))?;
            self.0.queue(Print(line))?;
        }
        self.0.queue(EndSynchronizedUpdate)?.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back as it was; again does nothing. One that is gone needs nothing.
pub(crate) fn give_back() {
    if !TAKEN.swap(false, Ordering::Relaxed) {
        return;
    }
    // First what cannot wait for a terminal that takes nothing.
    let _gone = disable_raw_mode();
    let _gone = execute!(io::stdout(), EnableLineWrap, Show, LeaveAlternateScreen);
}

/// What a panic says must not go to the alternate screen, which ends with it.
fn give_back_in_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
    });
}
