//! How a program is hardened, read from its ELF headers. What the linker or the compiler would leave
//! out without a word stops a release here.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use object::{
    Endianness,
    elf::{self, FileHeader64},
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _},
};

/// Section with the names and versions of all crates, compressed
/// (<https://github.com/rust-secure-code/cargo-auditable/blob/master/PARSING.md>).
const CRATES_SECTION: &[u8] = b".dep-v0";
/// What C code that was compiled with a stack protector calls.
const STACK_CHECK: &[u8] = b"__stack_chk_fail";

/// What a program of a release must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Property {
    /// No segment can be written and executed.
    NoWritableCode,
    /// All symbols are bound before `main`, and the table of their addresses is read-only then.
    BindNow,
    /// The list of crates is in it.
    Crates,
    /// The stack is not executable.
    NoExecutableStack,
    /// No library is looked for in directories that the program names.
    NoRunPath,
    /// Code has no relocations, so that it is never written.
    NoTextRelocations,
    /// The kernel may load it at any address.
    PositionIndependent,
    /// The relocated data is read-only before `main`.
    ReadOnlyRelocations,
    /// The C code has a stack protector. It is not seen in a static program without symbols.
    StackProtector,
    /// Symbols and debug information are not in it.
    Stripped,
}

/// What was read from one program.
#[derive(Debug)]
pub(super) struct Hardening {
    /// What it lacks, sorted.
    pub(super) missing: Vec<Property>,
    /// Whether it needs no libraries.
    pub(super) is_static: bool,
    /// Size in bytes.
    pub(super) size: usize,
}

/// Reads a program, and fails if it lacks a property, or names one of these directories of the
/// machine that built it.
pub(super) fn check(program: &Path, directories: &[&Path]) -> Result<Hardening> {
    let shown = program.display();
    let bytes = fs::read(program).with_context(|| format!("reading {shown}"))?;
    let found = read(&bytes).with_context(|| format!("reading the ELF headers of {shown}"))?;
    if !found.missing.is_empty() {
        let missing: Vec<_> = found.missing.iter().map(Property::to_string).collect();
        bail!("{shown} lacks: {}", missing.join("; "));
    }
    if let Some(directory) = named(&bytes, directories) {
        bail!("{shown} contains the name of a directory of this machine: {}", directory.display());
    }
    Ok(found)
}

/// Reads a program of a 64-bit machine.
pub(super) fn read(bytes: &[u8]) -> Result<Hardening> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, bytes)?;
    let sections = header.sections(endian, bytes)?;

    let mut missing = Vec::new();
    let mut require = |property, there: bool| {
        if !there {
            missing.push(property);
        }
    };
    let segment = |kind| segments.iter().find(|segment| segment.p_type(endian) == kind);
    let both = elf::PF_W | elf::PF_X;
    let mut dynamic = Vec::new();
    for segment in segments {
        for entry in segment.dynamic(endian, bytes)?.unwrap_or_default() {
            dynamic.push((entry.tag(endian), entry.val(endian)));
        }
    }
    let value = |tag: i64| dynamic.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value);
    let flag = |tag, bit: u32| value(tag).is_some_and(|flags| flags & u64::from(bit) != 0);
    let is_static = value(elf::DT_NEEDED).is_none();
    let symbols = sections.symbols(endian, bytes, elf::SHT_DYNSYM)?;
    let imports = |name: &[u8]| {
        let mut all = symbols.iter();
        all.any(|symbol| symbol.name(endian, symbols.strings()).is_ok_and(|found| found == name))
    };
    let has_section = |name: &[u8]| sections.section_by_name(endian, name).is_some();

    require(
        Property::NoWritableCode,
        !segments.iter().any(|one| one.p_flags(endian) & both == both),
    );
    let now = flag(elf::DT_FLAGS, elf::DF_BIND_NOW) || flag(elf::DT_FLAGS_1, elf::DF_1_NOW);
    require(Property::BindNow, now || value(elf::DT_BIND_NOW).is_some());
    require(Property::Crates, has_section(CRATES_SECTION));
    let stack = segment(elf::PT_GNU_STACK).map(|stack| stack.p_flags(endian));
    require(Property::NoExecutableStack, stack.is_some_and(|flags| flags & elf::PF_X == 0));
    let searches = value(elf::DT_RPATH).or_else(|| value(elf::DT_RUNPATH)).is_some();
    require(Property::NoRunPath, !searches);
    let text = value(elf::DT_TEXTREL).is_some() || flag(elf::DT_FLAGS, elf::DF_TEXTREL);
    require(Property::NoTextRelocations, !text);
    let is_pie = header.e_type(endian) == elf::ET_DYN && flag(elf::DT_FLAGS_1, elf::DF_1_PIE);
    require(Property::PositionIndependent, is_pie);
    require(Property::ReadOnlyRelocations, segment(elf::PT_GNU_RELRO).is_some());
    require(Property::StackProtector, is_static || imports(STACK_CHECK));
    let debug = sections.iter().any(|section| {
        let name = sections.section_name(endian, section).unwrap_or_default();
        section.sh_type(endian) == elf::SHT_SYMTAB || name.starts_with(b".debug")
    });
    require(Property::Stripped, !debug);
    missing.sort();
    Ok(Hardening { missing, is_static, size: bytes.len() })
}

/// The first of these directories whose name is in the program.
fn named<'a>(bytes: &[u8], directories: &[&'a Path]) -> Option<&'a Path> {
    directories.iter().copied().find(|directory| {
        let name = directory.as_os_str().as_encoded_bytes();
        // A short name, as `/` or `/root`, would also be found in other words.
        name.len() > "/root".len() && bytes.windows(name.len()).any(|window| window == name)
    })
}

impl fmt::Display for Property {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::BindNow => "symbols bound at start (-z now)",
            Self::Crates => "the list of its crates (cargo auditable)",
            Self::NoExecutableStack => "a stack that is not executable (-z noexecstack)",
            Self::NoRunPath => "an empty RPATH and RUNPATH",
            Self::NoTextRelocations => "code without relocations (-z text)",
            Self::NoWritableCode => "segments that are either written or executed",
            Self::PositionIndependent => "an address that the kernel chooses (-pie)",
            Self::ReadOnlyRelocations => "relocated data that is read-only (-z relro)",
            Self::StackProtector => "a stack protector in its C code (-fstack-protector-strong)",
            Self::Stripped => "symbols and debug information removed (strip)",
        })
    }
}

impl fmt::Display for Hardening {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing: _, is_static, size } = self;
        let linked = if *is_static { "static" } else { "dynamic" };
        write!(to, "{linked}, {} KiB", size / 1024)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A program by the machine's own C compiler, with these flags.
    fn compiled(flags: &[&str]) -> Vec<u8> {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("program.c");
        // An array that is written from outside, which the stack protector is for.
        let text = "#include <unistd.h>\n\
                    #ifdef ADDRESS_IN_CODE\n\
                    int main(void);\n\
                    __asm__(\".text\\n.balign 8\\n.quad main\\n\");\n\
                    #endif\n\
                    int main(void) { char line[64]; return (int)read(0, line, sizeof line); }\n";
        fs::write(&source, text).unwrap();
        let program = place.path().join("program");
        let mut compile = Command::new("cc");
        compile.arg("-fstack-protector-strong").args(flags).arg("-o").arg(&program).arg(&source);
        let output = compile.output().expect("building Rust needs a C compiler");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(program).unwrap()
    }

    const GOOD: &[&str] = &["-fPIE", "-pie", "-s", "-Wl,-z,relro,-z,now,-z,noexecstack,-z,text"];

    fn missing(more: &[&str]) -> Vec<Property> {
        read(&compiled(&[GOOD, more].concat())).unwrap().missing
    }

    #[test]
    fn a_hardened_program_lacks_only_the_list_of_crates() {
        assert_eq!(missing(&[]), [Property::Crates]);
    }

    #[test]
    fn each_property_is_missed() {
        for (flags, expected) in [
            ("-Wl,-z,lazy", Property::BindNow),
            ("-Wl,-z,norelro", Property::ReadOnlyRelocations),
            ("-Wl,-z,execstack", Property::NoExecutableStack),
            ("-Wl,-rpath,/opt/lib", Property::NoRunPath),
            ("-no-pie", Property::PositionIndependent),
            ("-fno-stack-protector", Property::StackProtector),
            ("-DADDRESS_IN_CODE -Wl,-z,notext", Property::NoTextRelocations),
            ("-static -no-pie -Wl,--omagic,--defsym=__ehdr_start=0", Property::NoWritableCode),
        ] {
            let missing = missing(&flags.split(' ').collect::<Vec<_>>());
            assert!(missing.contains(&expected), "{flags}: {missing:?}");
        }
        // `-s` on the command line cannot be taken back.
        let with_symbols = read(&compiled(&["-g"])).unwrap();
        assert!(with_symbols.missing.contains(&Property::Stripped), "{with_symbols:?}");
    }

    #[test]
    fn a_directory_of_the_building_machine_is_found() {
        let program = b"panicked at /home/somebody/tree/src/main.rs:1";
        let [root, here, other] =
            ["/", "/home/somebody/tree", "/home/somebody/other"].map(Path::new);
        assert_eq!(named(program, &[root, other, here]), Some(here));
        assert_eq!(named(program, &[root, other]), None);
    }

    #[test]
    fn bytes_that_are_no_program_are_an_error() {
        let program = compiled(GOOD);
        for end in (0..256).chain([program.len() / 2, program.len() - 1]) {
            // Each either reads or does not: none panics.
            drop(read(&program[..end]));
        }
        assert!(read(b"\x7fELF").is_err());
        assert!(read(b"").is_err());
    }
}
