//! The machine's own clock, set to what it shows: the kernel tells of that as of any other step.

use std::{sync::mpsc, time::Duration};

use rustix::time::{ClockId, clock_gettime, clock_settime};

#[test]
fn a_clock_that_is_set_is_told_at_once_each_time() {
    let (told, steps) = mpsc::channel();
    jit_agent::steps::watch(move || told.send(()).unwrap_or_default()).unwrap();
    for _ in 0..3 {
        let now = clock_gettime(ClockId::Realtime);
        clock_settime(ClockId::Realtime, now)
            .expect("set the clock to what it shows (CAP_SYS_TIME)");
        steps
            .recv_timeout(Duration::from_secs(5))
            .expect("the kernel tells that the clock was set");
    }
}
