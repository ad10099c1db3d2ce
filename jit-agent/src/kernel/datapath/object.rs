//! The compiled kernel programs, embedded so that the installed agent is one file.

/// The eBPF object (ELF), aligned as its parser needs it.
#[cfg(not(jit_agent_no_object))]
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/jit-agent-ebpf"));

/// A build with `AYA_BUILD_SKIP=1` has no object: loading it fails with a clear error.
#[cfg(jit_agent_no_object)]
pub static OBJECT: &[u8] = &[];

/// Name of the XDP program without multi-buffer support.
pub const PROGRAM_XDP: &str = "jit_gate";
/// Name of the XDP program with multi-buffer support (Linux 5.18+).
pub const PROGRAM_XDP_FRAGS: &str = "jit_gate_frags";
/// Name of the TC classifier for devices with an Ethernet header.
pub const PROGRAM_TC: &str = "jit_gate_tc";
/// Name of the TC classifier for devices without one.
pub const PROGRAM_TC_L3: &str = "jit_gate_tc_l3";
/// Name of the socket guard (Linux 5.17+).
pub const PROGRAM_GUARD: &str = "jit_guard";
/// Name of the socket guard that does not need the interface (Linux 5.9+).
pub const PROGRAM_GUARD_LEGACY: &str = "jit_guard_legacy";

#[cfg(all(test, not(jit_agent_no_object)))]
mod tests {
    use object::{Object as _, ObjectSection as _};

    use super::OBJECT;

    #[test]
    fn the_object_has_what_is_loaded_and_nothing_for_a_debugger() {
        let elf = object::File::parse(OBJECT).unwrap();
        let names: Vec<&str> = elf.sections().map(|section| section.name().unwrap()).collect();
        for loaded in [".BTF", ".BTF.ext", ".symtab", "maps", "xdp"] {
            assert!(names.contains(&loaded), "{loaded} is not among {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains("debug")), "{names:?}");
    }

    /// The loader drops the types of the running kernel, which such a place would need.
    #[test]
    fn no_place_of_the_programs_depends_on_the_types_of_the_running_kernel() {
        let elf = object::File::parse(OBJECT).unwrap();
        let section = elf.section_by_name(".BTF.ext").unwrap().data().unwrap();
        // `struct btf_ext_header` (libbpf, btf.h): `core_relo_len` is its last field, if it is there.
        let number = |at: usize| section.get(at..at + 4).map(|four| four.try_into().unwrap());
        let number = |at: usize| number(at).map(u32::from_ne_bytes);
        let header = number(4).unwrap();
        let relocations = if header < 32 { 0 } else { number(28).unwrap() };
        assert_eq!(relocations, 0, "bytes of relocations");
    }
}
