//! Reports at once that somebody set the wall clock, also during a suspend. It uses a timer that
//! the kernel cancels then (`TFD_TIMER_CANCEL_ON_SET` of timerfd_create(2)). Without this watch the
//! gate would see the change at its next tick.

use std::{io, os::fd::OwnedFd, thread};

use rustix::{
    io::Errno,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::system::sys;

/// Time until the timer runs out, seconds. It is not meant to run out.
const AHEAD: i64 = 10 * 365 * 24 * 3600;

/// Starts a thread that waits in the kernel. It calls `report` each time that the clock was set.
pub fn watch(report: impl Fn() + Send + 'static) -> io::Result<()> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC)?;
    arm(&timer)?;
    thread::Builder::new().name("clock".into()).spawn(move || {
        let Err(error) = wait(&timer, report);
        tracing::warn!("cannot watch for a clock that is set: {error}; the gate looks every 2 s");
    })?;
    Ok(())
}

fn wait(timer: &OwnedFd, report: impl Fn()) -> io::Result<std::convert::Infallible> {
    loop {
        let mut expirations = [0; 8];
        match rustix::io::read(timer, &mut expirations) {
            Err(Errno::INTR) => continue,
            // The timer has run out after years, or was cancelled.
            Ok(_) | Err(Errno::CANCELED) => {}
            Err(error) => return Err(error.into()),
        }
        arm(timer)?;
        report();
    }
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let seconds = sys::now().wall.0 / 1000;
    let end = Timespec { tv_sec: seconds.saturating_add(AHEAD), tv_nsec: 0 };
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    match timerfd_settime(timer, flags, &Itimerspec { it_interval: never, it_value: end }) {
        // It was cancelled again meanwhile, but is armed even so (timerfd_create(2), NOTES). The
        // report that follows covers that change, too.
        Ok(_) | Err(Errno::CANCELED) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
