//! Which libraries a program needs, and in which versions: what its package depends on. Read from
//! the program itself, so that it is the same for programs of another machine.

use std::{collections::BTreeMap, str};

use anyhow::{Context as _, Result, bail};
use object::{Endianness, elf::FileHeader64, read::elf::FileHeader as _};

/// A version as numbers: 2.34 is `[2, 34]`.
type Version = Vec<u32>;

/// Debian's packages, the libraries in them, and how their versions begin.
const PACKAGES: [(&str, &[&str], &str); 2] = [
    ("libc6", &["ld-linux", "libc.so.", "libdl.so.", "libm.so.", "libpthread.so."], "GLIBC_"),
    ("libgcc-s1", &["libgcc_s.so."], "GCC_"),
];
/// A mark among glibc's versions that is no number, and the version that understands it.
const COMPACT_RELOCATIONS: (&str, &str) = ("GLIBC_ABI_DT_RELR", "2.36");

/// What a Debian package with this program depends on: `libc6 (>= 2.34), libgcc-s1 (>= 4.2)`.
pub(super) fn debian(program: &[u8]) -> Result<String> {
    let mut needed: BTreeMap<&str, Version> = BTreeMap::new();
    for (library, name) in required(program)? {
        let of_package = PACKAGES.iter().find(|(_, libraries, _)| {
            libraries.iter().any(|beginning| library.starts_with(beginning))
        });
        let (package, _, beginning) =
            of_package.with_context(|| format!("no package is known for the library {library}"))?;
        let number = match name.strip_prefix(beginning) {
            _ if name == COMPACT_RELOCATIONS.0 => COMPACT_RELOCATIONS.1,
            Some(number) => number,
            None => bail!("version {name} of {library} is none of {package}"),
        };
        let version = version(number).with_context(|| format!("version {name} of {library}"))?;
        let highest = needed.entry(package).or_default();
        if version > *highest {
            *highest = version;
        }
    }
    let parts = needed.iter().map(|(package, version)| format!("{package} (>= {})", text(version)));
    Ok(parts.collect::<Vec<_>>().join(", "))
}

/// Libraries with the names of versions, in the order of the program.
fn required(program: &[u8]) -> Result<Vec<(String, String)>> {
    let header = FileHeader64::<Endianness>::parse(program)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, program)?;
    let mut all = Vec::new();
    let Some((mut libraries, link)) = sections.gnu_verneed(endian, program)? else {
        return Ok(all);
    };
    let strings = sections.strings(endian, program, link)?;
    while let Some((library, mut versions)) = libraries.next()? {
        let library_name = str::from_utf8(library.file(endian, strings)?)?;
        while let Some(version) = versions.next()? {
            let name = str::from_utf8(version.name(endian, strings)?)?;
            all.push((library_name.to_owned(), name.to_owned()));
        }
    }
    Ok(all)
}

fn version(number: &str) -> Result<Version> {
    let parts = number.split('.').map(str::parse);
    let mut version = parts.collect::<Result<Version, _>>().context("is no number")?;
    // GCC's 4.2.0 is Debian's 4.2.
    while version.len() > 2 && version.last() == Some(&0) {
        version.pop();
    }
    Ok(version)
}

fn text(version: &[u32]) -> String {
    version.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_not_letters() {
        assert!(version("2.34").unwrap() > version("2.4").unwrap());
        assert!(version("2.2.5").unwrap() > version("2.2").unwrap());
        assert_eq!(text(&version("4.2.0").unwrap()), "4.2");
        assert!(version("PRIVATE").is_err());
    }

    /// This test itself is a program of the machine that runs it.
    #[test]
    fn a_program_needs_the_library_that_its_loader_gives_it() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let depends = debian(&program).unwrap();
        assert!(depends.starts_with("libc6 (>= 2."), "{depends}");
        assert!(depends.contains("libgcc-s1 (>= "), "{depends}");
    }
}
