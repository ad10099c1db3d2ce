//! Memory, idle work, and the size of the programs.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use jit_tests::{
    figures::{Figure, GATE, size},
    process::{Memory, cpu, memory, proportional, sleeps},
    programs::binary,
};

use crate::grants::{LONG, Signed, many, report};

const MEMORY: &str = "memory";

pub(crate) fn measure() {
    let signed = Signed::listening();
    thread::sleep(Duration::from_secs(size(15, 2)));
    resident(&signed, 0);
    idle_work(&signed);
    let (some, most) = (size(10_000, 500), size(100_000, 2_000));
    signed.fill(0..some, LONG);
    let few = resident(&signed, some);
    signed.fill(some..most, LONG);
    let full = resident(&signed, most);
    // Not against none: memory that the start took and gave back would be in it.
    let bytes = |full: u64, few: u64| {
        let kib = u32::try_from(full.saturating_sub(few)).unwrap();
        vec![f64::from(kib) * 1024.0 / f64::from(most - some)]
    };
    for (what, values) in [
        ("resident", bytes(full.total, few.total)),
        ("anonymous", bytes(full.anonymous, few.anonymous)),
    ] {
        report(MEMORY, &format!("of a grant, {what}, {}", many(most)), ("B", false), values);
    }
    let disk = u32::try_from(fs::metadata(signed.site.path("state/grants.redb")).unwrap().len());
    let row = format!("of a grant, on the disk, {}", many(most));
    report(MEMORY, &row, ("B", false), vec![f64::from(disk.unwrap()) / f64::from(most)]);
}

fn resident(signed: &Signed, grants: u32) -> Memory {
    let agent = signed.site.processes();
    // The program's pages are in both of its processes, and once in memory.
    let memory = Memory { total: proportional(&agent), ..memory(&agent) };
    for (what, kib) in [("resident", memory.total), ("anonymous", memory.anonymous)] {
        let mib = f64::from(u32::try_from(kib).unwrap()) / 1024.0;
        report(MEMORY, &format!("{what}, {}", many(grants)), ("MiB", false), vec![mib]);
    }
    memory
}

/// Without a grant, without a request.
fn idle_work(signed: &Signed) {
    let pids = signed.site.processes();
    let (mut shares, mut wakes) = (Vec::new(), Vec::new());
    for _ in 0..size(2, 1) {
        let (start, used, slept) = (Instant::now(), cpu(&pids), sleeps(&pids));
        thread::sleep(Duration::from_secs(size(20, 3)));
        let took = start.elapsed().as_secs_f64();
        shares.push((cpu(&pids) - used).as_secs_f64() / took * 100.0);
        wakes.push(f64::from(u32::try_from(sleeps(&pids) - slept).unwrap()) / took);
    }
    report("idle", "processor time, of one core", ("%", false), shares);
    report("idle", "wake-ups a second", ("1/s", false), wakes);
}

/// The programs without their symbols.
pub(crate) fn sizes() {
    let directory = tempfile::tempdir().unwrap();
    for subject in [GATE, "jitctl"] {
        let copy = directory.path().join(subject);
        let status = Command::new("strip").arg("-o").arg(&copy).arg(binary(subject)).status();
        assert!(status.unwrap().success(), "strip (of binutils) failed");
        let bytes = f64::from(u32::try_from(fs::metadata(copy).unwrap().len()).unwrap());
        let (table, row, unit) = ("size", "the program, stripped", "MiB");
        let values = vec![bytes / 1048576.0];
        Figure { table, row, subject, unit, more_is_better: false, values }.report();
    }
}
