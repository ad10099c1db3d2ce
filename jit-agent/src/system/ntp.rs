//! Whether somebody keeps the kernel's wall clock right (adjtimex(2)).

use std::{io, mem, time::Duration};

/// What the kernel knows of its wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// A time daemon (NTP, PTP) keeps it right.
    pub synchronised: bool,
    /// How wrong it may be at most.
    pub may_be_off: Duration,
}

impl Discipline {
    /// Asks the kernel; changes nothing, and needs no rights.
    pub fn read() -> io::Result<Self> {
        // SAFETY: a structure of numbers; all zero is valid, and asks only.
        let mut clock: libc::timex = unsafe { mem::zeroed() };
        // SAFETY: adjtimex(2) reads and writes the structure, which lives until it returns.
        let state = unsafe { libc::adjtimex(&raw mut clock) };
        if state < 0 {
            return Err(io::Error::last_os_error());
        }
        let synchronised = state != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0;
        let micros = u64::try_from(clock.maxerror).unwrap_or(u64::MAX);
        Ok(Self { synchronised, may_be_off: Duration::from_micros(micros) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_it_to_everybody() {
        let read = Discipline::read().unwrap();
        assert_eq!(read.synchronised, Discipline::read().unwrap().synchronised);
    }
}
