//! What is in each package, and where. One table for all kinds of packages.

/// A package.
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    /// Paragraphs.
    pub(super) description: &'static [&'static str],
    pub(super) files: &'static [Entry],
    /// Whether `jit-agent/packaging/deb` and `rpm` have scripts for it.
    pub(super) has_scripts: bool,
    /// Section of the manual.
    pub(super) section: &'static str,
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
        has_scripts: true,
        section: "8",
    },
    Package {
        name: "jitctl",
        summary: "signs, pushes and revokes just-in-time access grants",
        description: &[
            "The operator's command line for hosts that run jit-agent: it makes keys, signs grants, \
             pushes them over mutual TLS, revokes them, and shows what is open.",
        ],
        files: JITCTL,
        has_scripts: false,
        section: "1",
    },
];
