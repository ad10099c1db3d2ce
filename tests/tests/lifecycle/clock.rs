//! Sets the machine's own clock ahead by a nanosecond: the kernel reports that as any other step.

use std::{sync::mpsc, time::Duration};

use jit_tests::sys::set_clock_ahead_by_a_nanosecond;

#[test]
fn a_clock_that_is_set_is_reported_at_once_each_time() {
    let (report, steps) = mpsc::channel();
    jit_agent::kernel::clock_watch::watch(move || report.send(()).unwrap_or_default()).unwrap();
    for _ in 0..3 {
        set_clock_ahead_by_a_nanosecond().expect("set the clock (CAP_SYS_TIME)");
        steps
            .recv_timeout(Duration::from_secs(5))
            .expect("the kernel reports that the clock was set");
    }
}
