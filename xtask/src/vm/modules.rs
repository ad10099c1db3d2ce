//! The kernel modules that the checks need. The machine has no modprobe, so they are listed in an
//! order in which they can be loaded one by one. Dependencies are read from the modules themselves.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::shell;

/// Modules for the network namespaces of the tests, and for what the agent asks of the kernel. A
/// module that is built into a kernel, or that a kernel lacks, is left out.
pub(super) const WANTED: &[&str] = &[
    "8021q",
    "af_packet",
    "authenc",
    "bonding",
    "bridge",
    "cls_bpf",
    "crypto_null",
    "dummy",
    "esp4",
    "geneve",
    "inet_diag",
    "ip6_gre",
    "ip6_tunnel",
    "ip_gre",
    "ipip",
    "ipvlan",
    "macvlan",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_redir",
    "sch_ingress",
    "sit",
    "tcp_diag",
    "team",
    "team_mode_roundrobin",
    "tun",
    "udp_diag",
    "veth",
    "vrf",
    "vxlan",
    "wireguard",
    "xfrm_interface",
    "xfrm_user",
];

/// Bound for the number of modules: more than these can depend on.
const MOST: usize = 100;

/// Unpacks the wanted modules and their dependencies into a directory. Returns the file names in
/// the order in which the modules are loaded.
pub(super) fn unpack(modules: &Path, into: &Path) -> Result<Vec<String>> {
    let files = index(&modules.join("kernel"))?;
    let mut depends = BTreeMap::new();
    let mut left: Vec<String> = WANTED.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = left.pop() {
        let Some(file) = files.get(&name).filter(|_| !depends.contains_key(&name)) else {
            continue;
        };
        ensure!(depends.len() < MOST, "more than {MOST} modules for the checks");
        let bytes = read(file)?;
        let needs = dependencies(&bytes);
        left.extend(needs.iter().cloned());
        let path = into.join(format!("{name}.ko"));
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        depends.insert(name, needs);
    }
    Ok(order(&depends).into_iter().map(|name| format!("{name}.ko")).collect())
}

/// Each module's file by its name.
fn index(kernel: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![kernel.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("listing modules in {}", directory.display()))?;
        for entry in entries {
            let path = entry.context("listing modules")?.path();
            if path.is_dir() {
                directories.push(path);
            } else if let Some(name) = path.file_name().and_then(|name| module(name.to_str()?)) {
                files.insert(name, path);
            }
        }
    }
    Ok(files)
}

/// The name of the module that a file holds. The kernel writes `_` where a file may have `-`.
fn module(file: &str) -> Option<String> {
    let (name, compression) = file.split_once(".ko")?;
    ["", ".xz", ".zst"].contains(&compression).then(|| name.replace('-', "_"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("reading {}", file.display())),
    };
    Ok(shell::quiet(shell::program(program, ["-d", "-c"]).arg(file))?.stdout)
}

/// The dependencies that a module names: `depends=a,b` between zero bytes.
fn dependencies(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let at = module.windows(FIELD.len()).position(|window| window == FIELD);
    let rest = at.and_then(|at| module.get(at + FIELD.len()..)).unwrap_or_default();
    let field = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let field = String::from_utf8_lossy(field);
    field.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// The modules in an order in which each comes after its dependencies.
fn order(depends: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    fn add(name: &str, depends: &BTreeMap<String, Vec<String>>, ordered: &mut Vec<String>) {
        let Some(needs) = depends.get(name) else { return };
        // This ends: the kernel's build refuses circles.
        needs.iter().for_each(|need| add(need, depends, ordered));
        if !ordered.iter().any(|other| other == name) {
            ordered.push(name.to_owned());
        }
    }
    let mut ordered = Vec::new();
    depends.keys().for_each(|name| add(name, depends, &mut ordered));
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_known_by_the_kernels_name_whatever_their_compression() {
        assert_eq!(module("nft_redir.ko.xz").as_deref(), Some("nft_redir"));
        assert_eq!(module("crc32c-intel.ko").as_deref(), Some("crc32c_intel"));
        assert_eq!(module("veth.ko.zst").as_deref(), Some("veth"));
        assert_eq!(module("modules.dep"), None);
        assert_eq!(module("veth.ko.sig"), None);
    }

    #[test]
    fn dependencies_are_read_from_the_module() {
        let bytes = b"\x7fELF...license=GPL\0depends=nf-nat,nf_tables\0retpoline=Y\0";
        assert_eq!(dependencies(bytes), ["nf_nat", "nf_tables"]);
        assert!(dependencies(b"license=GPL\0depends=\0name=veth\0").is_empty());
        assert!(dependencies(b"license=GPL\0").is_empty());
    }

    #[test]
    fn a_module_is_loaded_after_all_that_it_depends_on() {
        let needs = |needs: &[&str]| needs.iter().map(|need| (*need).to_owned()).collect();
        let depends = BTreeMap::from([
            ("a".to_owned(), needs(&["c"])),
            ("b".to_owned(), needs(&[])),
            ("c".to_owned(), needs(&["d", "b", "built_in"])),
            ("d".to_owned(), needs(&[])),
        ]);
        assert_eq!(order(&depends), ["d", "b", "c", "a"]);
    }
}
