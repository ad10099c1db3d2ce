//! The features of the running kernel that the gate can use, tried with the gate's own programs.
//! All must be there except those that the kernel is known to lack. Those must be missing, or the
//! list is wrong.
//!
//! The lines that begin with `@vm` are for `cargo xtask vm-test`.

use std::{collections::BTreeMap, fs::File, path::Path, time::Instant};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        LinkOrder, Program, SchedClassifier, SkLookup, TcAttachType, Xdp, XdpMode,
        links::FdLink,
        tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
    },
};
use jit_agent::kernel::datapath::object::{
    OBJECT, PROGRAM_GUARD, PROGRAM_GUARD_LEGACY, PROGRAM_TC, PROGRAM_XDP, PROGRAM_XDP_FRAGS,
};
use jit_tests::{lacks, netns::Namespace};

/// The form of a feature, or why it is missing.
type Answer = Result<String, String>;

#[test]
fn the_kernel_lacks_exactly_what_it_is_known_to_lack() {
    let namespace = Namespace::new();
    let peer = Namespace::new();
    namespace.connect("f0", &["198.51.100.1/24"], &peer, "f1", &["198.51.100.2/24"]);
    let index = namespace.index("f0");
    let found = namespace.run(|| probe(index));
    let mut missing = Vec::new();
    for (name, answer) in &found {
        let (word, detail) = match answer {
            Ok(form) => ("yes", form),
            Err(why) => ("no", why),
        };
        println!("@vm feature {name} {word} {}", detail.replace('\n', " "));
        missing.extend(answer.is_err().then_some((*name).to_owned()));
    }
    // A feature that only the tests use is no feature of the gate.
    let mut known = lacks::all();
    known.retain(|name| name != lacks::GUARD_TEST_RUN);
    known.sort();
    assert_eq!(missing, known, "{found:#?}");
}

fn probe(index: u32) -> BTreeMap<&'static str, Answer> {
    let mut loader = EbpfLoader::new();
    loader.override_global("AYA_LOG_LEVEL", &0_u8, true);
    let mut ebpf = loader.load(OBJECT).expect("the object loads");
    let types = Path::new("/sys/kernel/btf/vmlinux");
    let btf = if types.exists() { Ok(types.display().to_string()) } else { Err("none".into()) };
    let session_lookup = load(&mut ebpf, PROGRAM_XDP);
    let xdp_link = session_lookup.clone().and_then(|_| xdp_link(&mut ebpf, index));
    let tc = load(&mut ebpf, PROGRAM_TC);
    BTreeMap::from([
        (lacks::BTF, btf),
        (lacks::CLSACT, tc.clone().and_then(|_| clsact(classifier(&mut ebpf)))),
        (lacks::FRAGS, load(&mut ebpf, PROGRAM_XDP_FRAGS)),
        (lacks::INGRESS_IFINDEX, load(&mut ebpf, PROGRAM_GUARD)),
        (lacks::SESSION_LOOKUP, session_lookup),
        (lacks::SOCKET_GUARD, load(&mut ebpf, PROGRAM_GUARD_LEGACY).and_then(|_| guard(&mut ebpf))),
        (lacks::TCX, tc.and_then(|_| tcx(classifier(&mut ebpf)))),
        (lacks::VERIFIED_INSTRUCTIONS, verified(&ebpf)),
        (lacks::XDP_LINK, xdp_link),
    ])
}

/// Loads one program: then the kernel has what the program uses.
fn load(ebpf: &mut Ebpf, name: &str) -> Answer {
    let started = Instant::now();
    let loaded = match ebpf.program_mut(name).expect("a program of the object") {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => panic!("{name}: an unknown kind of program"),
    };
    loaded
        .map(|()| format!("{name} loads in {} ms", started.elapsed().as_millis()))
        .map_err(|error| said(&error))
}

fn xdp_link(ebpf: &mut Ebpf, index: u32) -> Answer {
    let program: &mut Xdp = ebpf.program_mut(PROGRAM_XDP).unwrap().try_into().unwrap();
    let link = program.attach_to_if_index(index, XdpMode::Driver).map_err(|error| said(&error))?;
    // On a kernel without links aya attaches over netlink.
    let link = FdLink::try_from(program.take_link(link).unwrap()).map_err(|error| said(&error))?;
    drop(link);
    Ok("native, on veth".to_owned())
}

fn classifier(ebpf: &mut Ebpf) -> &mut SchedClassifier {
    ebpf.program_mut(PROGRAM_TC).unwrap().try_into().unwrap()
}

fn tcx(program: &mut SchedClassifier) -> Answer {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options("f0", TcAttachType::Ingress, options);
    let link = link.map_err(|error| said(&error))?;
    program.detach(link).unwrap();
    Ok("ingress, first".to_owned())
}

fn clsact(program: &mut SchedClassifier) -> Answer {
    qdisc_add_clsact("f0").map_err(|error| said(&error))?;
    let options = TcAttachOptions::Netlink(NlOptions::default());
    let link = program.attach_with_options("f0", TcAttachType::Ingress, options);
    let link = link.map_err(|error| said(&error))?;
    program.detach(link).unwrap();
    Ok("ingress filter".to_owned())
}

fn guard(ebpf: &mut Ebpf) -> Answer {
    let program: &mut SkLookup =
        ebpf.program_mut(PROGRAM_GUARD_LEGACY).unwrap().try_into().unwrap();
    let here = File::open("/proc/thread-self/ns/net").unwrap();
    let link = program.attach(&here).map_err(|error| said(&error))?;
    program.detach(link).unwrap();
    Ok("attaches to a network namespace".to_owned())
}

fn verified(ebpf: &Ebpf) -> Answer {
    let program: &SchedClassifier = ebpf.program(PROGRAM_TC).unwrap().try_into().unwrap();
    match program.info().expect("program info").verified_instruction_count() {
        Some(count) => Ok(format!("{PROGRAM_TC}: {count}")),
        None => Err("the kernel does not say".to_owned()),
    }
}

/// An error with its causes, without the verifier's log.
fn said(error: &dyn std::error::Error) -> String {
    let text = jit_agent::kernel::datapath::chain(error);
    text.lines().next().unwrap_or_default().to_owned()
}
