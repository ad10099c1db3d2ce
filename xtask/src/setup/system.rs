//! Things that the demo and the tests need from the machine, except compilers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    apt,
    need::{Found, Source},
};
use crate::shell;

const BPFFS: &str = "/sys/fs/bpf";
const PYTHON_PACKAGES: &str = "tests/python/requirements.txt";
const PYTHON_IMPORTS: &str =
    "import azure.mgmt.security, boto3, cryptography, grpc, grpc_tools.protoc, moto.server";

pub(super) fn find_program(name: &str) -> Found {
    match shell::find(name) {
        Some(path) => Found::Yes(path.display().to_string()),
        None => Found::No("not installed".to_owned()),
    }
}

pub(super) fn find_programs(names: &[&str]) -> Found {
    match names.iter().find(|name| shell::find(name).is_none()) {
        Some(missing) => Found::No(format!("{missing} is not installed")),
        None => Found::Yes(names.join(", ")),
    }
}

/// Where there is no package with perf, the benches leave out what it counts.
pub(super) fn find_perf() -> Found {
    match find_program("perf") {
        Found::No(_) if !apt::has("linux-perf") => {
            Found::Yes("no package linux-perf here: cycles are not counted".to_owned())
        }
        found => found,
    }
}

/// Debian has two packages with a busybox. Only the static one runs in a machine without libraries.
pub(super) fn find_static_busybox() -> Found {
    let Found::Yes(path) = find_program("busybox") else { return find_program("busybox") };
    match shell::quiet(&mut shell::program("ldd", [&path])) {
        Ok(linked) if !String::from_utf8_lossy(&linked.stdout).contains("statically linked") => {
            Found::No(format!("{path} needs libraries: busybox-static does not"))
        }
        _ => Found::Yes(path),
    }
}

pub(super) fn find_bpffs() -> Found {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
    });
    if mounted {
        Found::Yes(format!("mounted on {BPFFS}"))
    } else {
        Found::No(format!("not mounted on {BPFFS}"))
    }
}

pub(super) fn mount_bpffs(_: Source) -> Result<()> {
    let mount = shell::program("mount", ["-t", "bpf", "bpf", BPFFS]);
    shell::quiet(&mut shell::as_root("mounting bpffs, where the gate is pinned", mount)?)?;
    Ok(())
}

/// Where Debian's packages put the programs of each version of Postgres.
const POSTGRES: &str = "/usr/lib/postgresql";
/// Its package makes a database and starts a server for it, unless this says otherwise. The tests start a
/// server of their own.
const NO_CLUSTER: &str = "mkdir -p /etc/postgresql-common/createcluster.d && \
     echo 'create_main_cluster = off' >/etc/postgresql-common/createcluster.d/jit-agent-tests.conf";

pub(super) fn find_postgres() -> Found {
    let versions = fs::read_dir(POSTGRES).into_iter().flatten().flatten();
    let servers = versions.map(|version| version.path().join("bin/postgres"));
    match servers.filter(|server| server.exists()).max() {
        Some(server) => Found::Yes(server.display().to_string()),
        None => Found::No(format!("no server below {POSTGRES}")),
    }
}

pub(super) fn provide_postgres(_: Source) -> Result<()> {
    let reason = "testing the controller with a server of Postgres";
    let prepare = shell::program("sh", ["-c", NO_CLUSTER]);
    shell::quiet(&mut shell::as_root(reason, prepare)?)?;
    apt::install(reason, &["postgresql"])
}

/// The Python with the packages that a gRPC client in another language needs.
pub(crate) fn client_python() -> PathBuf {
    shell::target().join("client-venv/bin/python3")
}

pub(super) fn find_client_python() -> Found {
    let python = client_python();
    match shell::answer(&mut shell::program(&python, ["-c", PYTHON_IMPORTS])) {
        Some(_) => Found::Yes(python.display().to_string()),
        None => Found::No(format!("{} lacks what {PYTHON_PACKAGES} lists", python.display())),
    }
}

pub(super) fn provide_client_python(_: Source) -> Result<()> {
    let python = client_python();
    let environment = python.ancestors().nth(2).context("the environment has a directory")?;
    install_python(environment, "a client in another language", |install| {
        install.arg("--requirement").arg(shell::root().join(PYTHON_PACKAGES))
    })
}

/// Makes a Python environment with packages.
fn install_python(
    environment: &Path,
    reason: &str,
    packages: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<()> {
    let can_make_environments = shell::program("python3", ["-c", "import ensurepip, venv"]);
    if shell::answer(&mut { can_make_environments }).is_none() {
        apt::install(&format!("a Python environment for {reason}"), &["python3-venv"])?;
    }
    shell::quiet(shell::program("python3", ["-m", "venv", "--clear"]).arg(environment))?;
    let python = environment.join("bin/python3");
    let mut install = shell::program(python, ["-m", "pip", "install", "--quiet"]);
    shell::long(&format!("pip install, for {reason}"), packages(&mut install))
}

/// Installs a program, which is a wheel, into an environment of its own. `program`: the path in it.
pub(super) fn install_wheel(program: &Path, reason: &str, wheel: &str) -> Result<()> {
    let environment = program.ancestors().nth(2).context("the environment has a directory")?;
    install_python(environment, reason, |install| install.args(["--only-binary=:all:", wheel]))
}

/// Ansible, of a version that the Python of Debian 12 runs.
const ANSIBLE: &str = "ansible-core==2.19.14";

/// The program that plays Ansible's playbooks.
pub(crate) fn ansible_playbook() -> PathBuf {
    shell::target().join("ansible-venv/bin/ansible-playbook")
}

/// Installs Ansible, if it is not there.
pub(super) fn ensure_ansible() -> Result<()> {
    let program = ansible_playbook();
    let asked = shell::answer(&mut shell::program(&program, ["--version"]));
    let (_, version) = ANSIBLE.split_once("==").unwrap_or_default();
    if asked.is_some_and(|said| said.contains(version)) {
        return Ok(());
    }
    let environment = program.ancestors().nth(2).context("the environment has a directory")?;
    install_python(environment, "playing an Ansible role", |install| install.arg(ANSIBLE))
}

/// Shows which optional programs are there. Installs none of them.
pub(super) fn tell_optional() {
    match shell::find("sshd") {
        Some(path) => println!("✓ sshd (optional): {}", path.display()),
        None => println!(
            "- sshd (optional): not installed; the demo answers on port 22 with a small server of \
             its own"
        ),
    }
}
