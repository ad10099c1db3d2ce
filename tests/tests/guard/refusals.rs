//! What a refusal of the loaded guards records: counters and an event, and in observe mode only the
//! count. (`tests/kernel/comparison.rs` shows that they decide as the host does.)

use jit_agent::kernel::datapath::memory::MemoryTables;
use jit_common::{Address, Counter, Lookup, PortKey, PortRule, Protocol, Reason, Settings};
use jit_tests::{
    kernel::{Kernel, difference, guards},
    lacks,
    netns::Namespace,
};

#[test]
fn in_observe_mode_the_guard_counts_and_refuses_nothing() {
    if lacks::kernel_lacks(lacks::GUARD_TEST_RUN) {
        return;
    }
    Namespace::new().run(|| {
        let port = PortKey { protocol: Protocol::Tcp, port: 22 };
        let of = |observe| PortRule { observe, ..PortRule::default() };
        let stranger = Lookup {
            source: Address::v4([203, 0, 113, 2]),
            destination: Address::v4([203, 0, 113, 1]),
            source_port: 40_000,
            port,
            loopback: Some(false),
        };
        for (rule, gate, refused) in
            [(of(0), 0, true), (of(1), 0, false), (of(0), 1, false), (of(1), 1, false)]
        {
            let mut kernel = Kernel::load();
            let ports = [(port, rule)].into();
            kernel.fill(&MemoryTables { ports, ..MemoryTables::default() });
            kernel.set(Settings { observe: gate, drop_events: 1_000, ..Settings::default() });
            for program in guards() {
                let before = kernel.counters();
                assert_eq!(kernel.refuses(program, &stranger), refused, "{program}");
                let moved = difference(&before, &kernel.counters());
                assert_eq!(moved[Counter::Guard.index() as usize], 1, "{program}");
                assert_eq!(moved[Reason::Denied as usize], u64::from(refused), "{program}");
                let events = kernel.events();
                assert_eq!(events.len(), usize::from(refused), "{program}");
                for event in events {
                    assert_eq!((event.port, event.source_port), (22, 40_000));
                    assert_eq!((event.family, &event.source[..4]), (4, &[203, 0, 113, 2][..]));
                }
            }
        }
    });
}
