//! The machine's disk: Debian, made by mmdebstrap in a folder, and turned into an image without
//! mounting anything. It is made once, and again when what it is made of changes.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    debian::{self, Archives},
    shell,
};

/// The release.
const SUITE: &str = "bookworm";
/// What a small server has, and a kernel for virtual machines.
/// Python is there for Ansible.
const PACKAGES: &str = "dbus,iproute2,kmod,linux-image-cloud-amd64,openssh-server,procps,python3,\
                        python3-apt,systemd,systemd-sysv,udev";
/// The initramfs has only what finds the disk: it is read by an emulated processor at each boot.
const INITRAMFS: &str = "mkdir -p \"$1/etc/initramfs-tools/conf.d\" && \
                         echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/modules\" && \
                         printf 'virtio_pci\\nvirtio_blk\\next4\\n' \
                         >\"$1/etc/initramfs-tools/modules\"";
/// The timers of a server would only take time from the emulated processor.
const SETTLE: &str = "chroot \"$1\" systemctl --quiet disable apt-daily.timer \
                      apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
                      e2scrub_reap.service && \
                      chroot \"$1\" systemctl --quiet enable systemd-networkd jit-vm-runner";
/// Size of the disk.
const SIZE: &str = "1500M";
const RUNNER: &str = include_str!("guest/runner.sh");
const SERVICE: &str = include_str!("guest/runner.service");
const NETWORK: &str = include_str!("guest/eth0.network");

/// What a machine is booted from.
pub(super) struct Root {
    /// The disk. Each run takes a copy.
    pub(super) disk: PathBuf,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
}

/// Makes the disk, unless an earlier run has made the same one.
pub(super) fn provide(scratch: &Path) -> Result<Root> {
    let directory = scratch.join(format!("base-{:016x}", ingredients()));
    let file = |name: &str| directory.join(name);
    let root = Root { disk: file("disk"), kernel: file("vmlinuz"), initramfs: file("initrd.img") };
    // It is written last.
    if root.disk.exists() {
        return Ok(root);
    }
    if directory.exists() {
        fs::remove_dir_all(&directory).context("removing a disk that was made in part")?;
    }
    fs::create_dir_all(&directory).context("making a directory for the disk")?;
    let folder = file("root");
    bootstrap(&directory, &folder)?;
    for (name, to) in [("vmlinuz", &root.kernel), ("initrd.img", &root.initramfs)] {
        fs::copy(folder.join(name), to).with_context(|| format!("copying {name}"))?;
    }
    let part = file("disk.part");
    image(&folder, &part, SIZE)?;
    fs::remove_dir_all(&folder).context("removing the folder of the disk")?;
    fs::rename(&part, &root.disk).context("keeping the disk")?;
    Ok(root)
}

/// An image of a folder, without a mount.
pub(super) fn image(folder: &Path, to: &Path, size: &str) -> Result<()> {
    let mut make = shell::program("mke2fs", ["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0"]);
    make.arg("-d").arg(folder).arg(to).arg(size);
    shell::quiet(&mut make).map(drop)
}

fn bootstrap(directory: &Path, folder: &Path) -> Result<()> {
    let sources = Archives::find()?.sources(&[SUITE], &["bookworm-security"])?;
    let written = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        anyhow::Ok(path)
    };
    let acquisition = written("apt.conf", &debian::acquisition())?;
    let list = written("sources.list", &sources)?;
    let copies = [
        (written("runner.sh", RUNNER)?, "/usr/lib/jit-vm/runner.sh"),
        (written("runner.service", SERVICE)?, "/usr/lib/systemd/system/jit-vm-runner.service"),
        (written("eth0.network", NETWORK)?, "/etc/systemd/network/eth0.network"),
        (written("hostname", "web-1\n")?, "/etc/hostname"),
        (written("fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n")?, "/etc/fstab"),
    ];
    let mut make = shell::program("mmdebstrap", ["--mode=root", "--variant=minbase"]);
    make.arg(format!("--aptopt={}", acquisition.display()))
        .arg(format!("--include={PACKAGES}"))
        .arg(format!("--essential-hook={INITRAMFS}"))
        .arg("--customize-hook=mkdir -p \"$1/usr/lib/jit-vm\"");
    for (from, to) in copies {
        make.arg(format!("--customize-hook=upload {} {to}", from.display()));
    }
    make.arg(format!("--customize-hook={SETTLE}")).arg(SUITE).arg(folder).arg(list);
    shell::long("a Debian with systemd", &mut make)
}

/// A number that changes when what the disk is made of changes.
fn ingredients() -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in [SUITE, PACKAGES, INITRAMFS, SETTLE, SIZE, RUNNER, SERVICE, NETWORK] {
        part.hash(&mut hasher);
    }
    hasher.finish()
}
