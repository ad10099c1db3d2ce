//! What is in each package, and where. One table for all kinds of packages.

/// A package.
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    /// Paragraphs.
    pub(super) description: &'static [&'static str],
    pub(super) files: &'static [Entry],
    /// The directory with its scripts, in `deb` and `rpm`.
    pub(super) scripts: Option<&'static str>,
    /// Section of the manual.
    pub(super) section: &'static str,
    /// By its default features it loads modules of PKCS#11.
    pub(super) loads_modules: bool,
    /// Crates whose dependencies its bill of materials lists: the program, and what it carries.
    pub(super) carries: &'static [Carried],
    /// Also made without any library, for hosts whose glibc is older than the one here.
    pub(super) is_static_too: bool,
}

/// A crate of a package.
pub(super) struct Carried {
    pub(super) name: &'static str,
    pub(super) directory: &'static str,
}

/// A file, or the files of a directory.
pub(super) struct Entry {
    pub(super) from: From,
    /// The path on the host. One that ends with `/` is a directory.
    pub(super) to: &'static str,
    pub(super) mode: u32,
    /// An edited file survives an upgrade.
    pub(super) is_configuration: bool,
}

/// Where a file comes from.
pub(super) enum From {
    /// A built program.
    Program,
    /// A file of the repository.
    File(&'static str),
    /// The files of a directory of the repository.
    Directory(&'static str),
    /// Nothing: an empty directory.
    Empty,
}

const fn file(from: &'static str, to: &'static str) -> Entry {
    Entry { from: From::File(from), to, mode: 0o644, is_configuration: false }
}

const AGENT: &[Entry] = &[
    Entry { from: From::Program, to: "/usr/bin/jit-agent", mode: 0o755, is_configuration: false },
    Entry {
        from: From::File("jit-agent/packaging/package.sh"),
        to: "/usr/lib/jit-agent/package",
        mode: 0o755,
        is_configuration: false,
    },
    Entry {
        from: From::File("jit-agent/packaging/config.toml"),
        to: "/etc/jit-agent/config.toml",
        mode: 0o644,
        is_configuration: true,
    },
    Entry {
        from: From::Empty,
        to: "/etc/jit-agent/signers/",
        mode: 0o755,
        is_configuration: false,
    },
    file("jit-agent/packaging/jit-agent.service", "/usr/lib/systemd/system/jit-agent.service"),
    file(
        "jit-agent/packaging/jit-agent-early.service",
        "/usr/lib/systemd/system/jit-agent-early.service",
    ),
    file("jit-agent/packaging/jit-agent.sysusers.conf", "/usr/lib/sysusers.d/jit-agent.conf"),
    file("jit-agent/packaging/jit-agent.tmpfiles.conf", "/usr/lib/tmpfiles.d/jit-agent.conf"),
    file("jit-agent/packaging/example.toml", "/usr/share/doc/jit-agent/example.toml"),
    Entry {
        from: From::Directory("jit-agent/docs"),
        to: "/usr/share/doc/jit-agent/",
        mode: 0o644,
        is_configuration: false,
    },
    file("README.md", "/usr/share/doc/jit-agent/README.md"),
    file("SECURITY.md", "/usr/share/doc/jit-agent/SECURITY.md"),
];

const JITCTL: &[Entry] =
    &[Entry { from: From::Program, to: "/usr/bin/jitctl", mode: 0o755, is_configuration: false }];

const CONTROLLER: &[Entry] = &[
    Entry {
        from: From::Program,
        to: "/usr/bin/jit-controller",
        mode: 0o755,
        is_configuration: false,
    },
    Entry {
        from: From::File("jit-agent/packaging/controller/package.sh"),
        to: "/usr/lib/jit-controller/package",
        mode: 0o755,
        is_configuration: false,
    },
    file(
        "jit-agent/packaging/jit-controller.service",
        "/usr/lib/systemd/system/jit-controller.service",
    ),
    file(
        "jit-agent/packaging/jit-controller.sysusers.conf",
        "/usr/lib/sysusers.d/jit-controller.conf",
    ),
    file(
        "jit-agent/packaging/jit-controller.tmpfiles.conf",
        "/usr/lib/tmpfiles.d/jit-controller.conf",
    ),
    // All pages: they refer to each other.
    Entry {
        from: From::Directory("jit-agent/docs"),
        to: "/usr/share/doc/jit-controller/",
        mode: 0o644,
        is_configuration: false,
    },
    file(
        "jit-agent/controller/examples/aws-kms-signer.py",
        "/usr/share/doc/jit-controller/examples/aws-kms-signer.py",
    ),
    file(
        "jit-agent/controller/examples/azure-key-vault-signer.py",
        "/usr/share/doc/jit-controller/examples/azure-key-vault-signer.py",
    ),
    file(
        "jit-agent/packaging/nats/cluster.conf",
        "/usr/share/doc/jit-controller/examples/nats/cluster.conf",
    ),
    file(
        "jit-agent/packaging/nats/nats-1.conf",
        "/usr/share/doc/jit-controller/examples/nats/nats-1.conf",
    ),
    file("README.md", "/usr/share/doc/jit-controller/README.md"),
    file("SECURITY.md", "/usr/share/doc/jit-controller/SECURITY.md"),
];

/// The packages of a release.
pub(super) const PACKAGES: &[Package] = &[
    Package {
        name: "jit-agent",
        summary: "just-in-time access to closed ports, enforced by the kernel",
        description: &[
            "Ports such as 22 and 3389 are closed in the kernel to everybody. A controller opens \
             them with a signed grant that names hosts, a source address and a window of time. The \
             host checks the signature itself, and the kernel ends the grant on time, even if the \
             agent is dead.",
            "As installed it protects nothing and shuts nobody out: `jit-agent init` writes a \
             configuration for the host.",
        ],
        files: AGENT,
        scripts: Some("jit-agent/packaging"),
        section: "8",
        loads_modules: false,
        carries: &[
            Carried { name: "jit-agent", directory: "jit-agent" },
            Carried { name: "jit-agent-ebpf", directory: "jit-agent-ebpf" },
        ],
        is_static_too: true,
    },
    Package {
        name: "jit-controller",
        summary: "requests, approvals and signatures of just-in-time access",
        description: &[
            "Somebody asks for a port on some hosts that run jit-agent, the right people agree, a key \
             that nobody can reach signs exactly what was agreed, and every host answers for itself \
             whether it is open. With an embedded database; PostgreSQL is an option.",
            "As installed it does not run: `jit-controller init` makes its directory, and the service \
             starts when that is there.",
        ],
        files: CONTROLLER,
        scripts: Some("jit-agent/packaging/controller"),
        section: "8",
        loads_modules: false,
        carries: &[Carried { name: "jit-controller", directory: "jit-agent/controller" }],
        // A static program loads no PKCS#11 module. It runs on one machine, which can be a newer one.
        is_static_too: false,
    },
    Package {
        name: "jitctl",
        summary: "signs, pushes and revokes just-in-time access grants",
        description: &[
            "The operator's command line for hosts that run jit-agent: it makes keys, signs grants, \
             pushes them over mutual TLS, revokes them, and shows what is open.",
        ],
        files: JITCTL,
        scripts: None,
        section: "1",
        loads_modules: true,
        carries: &[Carried { name: "jitctl", directory: "jit-agent/jitctl" }],
        is_static_too: true,
    },
];
